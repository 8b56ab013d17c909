package rpc

import (
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/resource"
	"antipode.example/services/user"
)

// recordOf is the part of a record that callers choose.
func recordOf(m *userv1.User) *userv1.UserRecord {
	rec := &userv1.UserRecord{
		FirstName:    m.GetFirstName(),
		LastName:     m.GetLastName(),
		DisplayName:  m.GetDisplayName(),
		Email:        m.GetEmail(),
		PhoneNumbers: m.GetPhoneNumbers(),
	}
	if a := m.GetAddress(); a != nil {
		rec.Address = &userv1.UserRecord_Address{
			StreetAddress: a.GetStreetAddress(),
			City:          a.GetCity(),
			State:         a.GetState(),
			PostalCode:    a.GetPostalCode(),
			Country:       a.GetCountry(),
		}
	}
	return rec
}

// changes are the record's fields that an update writes. A user always has an address, so "all" can't mean to clear it.
func changes(mask *fieldmaskpb.FieldMask, patch *userv1.UserRecord) ([]string, error) {
	m := resource.Mask{
		A: aUser, Message: &userv1.User{},
		Changeable: []string{"first_name", "last_name", "display_name", "email", "address", "phone_numbers"},
		Required:   []string{"email"},
	}
	return m.Paths(mask, patch)
}

// message is a copy as callers see it. The address is always there, so that every user has the same shape in JSON.
func message(c user.Copy) *userv1.User {
	rec := c.Record
	return &userv1.User{
		Id:          c.ID.String(),
		FirstName:   rec.GetFirstName(),
		LastName:    rec.GetLastName(),
		DisplayName: rec.GetDisplayName(),
		Email:       rec.GetEmail(),
		Address: &userv1.Address{
			StreetAddress: rec.GetAddress().GetStreetAddress(),
			City:          rec.GetAddress().GetCity(),
			State:         rec.GetAddress().GetState(),
			PostalCode:    rec.GetAddress().GetPostalCode(),
			Country:       rec.GetAddress().GetCountry(),
		},
		PhoneNumbers: rec.GetPhoneNumbers(),
		CreateTime:   rec.GetCreateTime(),
		UpdateTime:   rec.GetUpdateTime(),
		Etag:         c.Etag,
	}
}
