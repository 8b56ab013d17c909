package rpc

import (
	"slices"

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

// passwordField is no field of the record: what is stored is not what the caller sends.
const passwordField = "password"

// change is what an update asks for. A user always has an address, and a password for good, so "all" can't mean to clear them.
func change(mask *fieldmaskpb.FieldMask, m *userv1.User) (user.Change, error) {
	may := resource.Mask{
		A: aUser, Message: &userv1.User{},
		Changeable: []string{"first_name", "last_name", "display_name", "email", "address", "phone_numbers", passwordField},
		Required:   []string{"email", passwordField},
	}
	paths, err := may.Paths(mask, m)
	if err != nil {
		return user.Change{}, err
	}
	c := user.Change{Etag: m.GetEtag(), Patch: recordOf(m)}
	if i := slices.Index(paths, passwordField); i >= 0 {
		password := m.GetPassword()
		c.Password, paths = &password, slices.Delete(paths, i, i+1)
	}
	c.Paths = paths
	return c, nil
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
		Roles:        rec.GetRoles(),
	}
}

func credential(c user.Credential) *userv1.Credential {
	m := &userv1.Credential{UserId: c.ID.String(), Roles: c.Record.GetRoles(), Vector: c.Vector.Proto(), MaxStamp: uint64(c.Stamp)}
	for _, d := range c.Revocations {
		m.Revocations = append(m.Revocations, d.Proto())
	}
	return m
}
