package rpc

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/fault"
)

func TestChanges(t *testing.T) {
	t.Parallel()
	patch := &userv1.UserRecord{
		FirstName: "John", Email: "john@example.com", PhoneNumbers: []string{"+12125551234"},
		Address: &userv1.UserRecord_Address{City: "New York", State: "NY"},
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
			got, err := changes(m, patch)
			if why, refused := strings.CutPrefix(want, "!"); refused {
				f := fault.From(err)
				if f == nil || f.Kind != fault.Invalid || len(f.Violations) != 1 || f.Violations[0] != (fault.Violation{Field: "update_mask", Description: why}) {
					t.Fatalf("got %v, %+v; want it refused: %s", got, err, why)
				}
				return
			}
			if err != nil || !slices.Equal(got, strings.Fields(want)) {
				t.Errorf("got %v, %v; want %s", got, err, want)
			}
		})
	}
	_, err := changes(&fieldmaskpb.FieldMask{Paths: []string{"one", "two"}}, patch)
	if f := fault.From(err); f == nil || len(f.Violations) != 2 {
		t.Errorf("got %+v, want both paths named", err)
	}
}
