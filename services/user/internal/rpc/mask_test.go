package rpc

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/fault"
)

func TestChanges(t *testing.T) {
	t.Parallel()
	sent := &userv1.User{
		Id: "ignored", FirstName: "John", Email: "john@example.com", PhoneNumbers: []string{"+12125551234"}, Roles: []string{"ignored"},
		Address: &userv1.Address{City: "New York", State: "NY"},
	}
	for mask, want := range map[string]string{
		"":                             "address.city address.state email first_name phone_numbers", // what is set
		"first_name":                   "first_name",
		"firstName":                    "first_name",
		"address":                      "address",
		"address.city":                 "address.city",
		"address.postalCode,last_name": "address.postal_code last_name",
		"phone_numbers":                "phone_numbers",
		"first_name,firstName":         "first_name",
		"*":                            "address display_name email first_name last_name phone_numbers",
		"etag,first_name":              "first_name",
		"etag":                         "",
		"email":                        "email",
		"password":                     "",
		"password,last_name":           "last_name",
		"roles":                        `!"roles" is filled by the server`,
		"password_hashes":              `!"password_hashes" is not a field of a user`,
		"id":                           `!"id" is filled by the server`,
		"create_time":                  `!"create_time" is filled by the server`,
		"updateTime":                   `!"updateTime" is filled by the server`,
		"create_time.seconds":          `!"create_time.seconds" is not a field of a user`,
		"middle_name":                  `!"middle_name" is not a field of a user`,
		"address.planet":               `!"address.planet" is not a field of a user`,
		"address.":                     `!"address." is not a field of a user`,
		"first_name.x":                 `!"first_name.x" is not a field of a user`,
		"phone_numbers.0":              `!"phone_numbers.0" is not a field of a user`,
		"status":                       `!"status" is not a field of a user`, // of the record, not of the API
		"First_Name":                   `!"First_Name" is not a field of a user`,
	} {
		t.Run(mask, func(t *testing.T) {
			t.Parallel()
			m := &fieldmaskpb.FieldMask{}
			if mask != "" {
				m.Paths = strings.Split(mask, ",")
			}
			got, err := change(m, sent)
			if why, refused := strings.CutPrefix(want, "!"); refused {
				f := fault.From(err)
				if f == nil || f.Kind != fault.Invalid || len(f.Violations) != 1 || f.Violations[0] != (fault.Violation{Field: "update_mask", Description: why}) {
					t.Fatalf("got %v, %+v; want it refused: %s", got, err, why)
				}
				return
			}
			if err != nil || !slices.Equal(got.Paths, strings.Fields(want)) {
				t.Errorf("got %v, %v; want %s", got.Paths, err, want)
			}
			if named := strings.Contains(mask, "password"); named != (got.Password != nil) || named && *got.Password != "" {
				t.Errorf("the password is %v", got.Password)
			}
		})
	}
	for mask, names := range map[string][]string{"": {"password"}, "*": {"*"}} {
		got, err := change(&fieldmaskpb.FieldMask{Paths: names[:len(mask)]}, &userv1.User{Password: proto.String("new password")})
		if err != nil || got.Password == nil || *got.Password != "new password" || slices.Contains(got.Paths, "password") {
			t.Errorf("mask %q: %+v, %v", mask, got, err)
		}
	}
	_, err := change(&fieldmaskpb.FieldMask{Paths: []string{"one", "two"}}, sent)
	if f := fault.From(err); f == nil || len(f.Violations) != 2 {
		t.Errorf("got %+v, want both paths named", err)
	}
}
