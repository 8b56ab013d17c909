package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"antipode.example/e2e/await"
	"antipode.example/regions/lab"
)

// walk runs the README's walk to the letter, with this lab's regionctl and doors, and returns what every region shows of its user at the end.
func (o *operator) walk(t *testing.T, s lab.Status) (user string) {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	script := o.mine(s, strings.ReplaceAll(commands(string(readme), "A walk"), "/tmp/", t.TempDir()+"/"))
	if n := strings.Count(script, "curl "); n < 5 {
		t.Fatalf("the README's walk has only %d requests; are its commands still indented?\n%s", n, script)
	}
	// A person takes longer than regions need to get through their gates.
	await.Until(t, "all regions are ACTIVE", patience, func(ctx context.Context) error {
		text, err := o.command(ctx, "status", "-o", "json").Output()
		if err != nil {
			return err
		}
		var now lab.Status
		if err := json.Unmarshal(text, &now); err != nil {
			return err
		}
		for _, r := range now.Regions {
			if r.Traffic == nil || r.Traffic.State != "ACTIVE" {
				return fmt.Errorf("%s is %+v", r.Name, r.Traffic)
			}
		}
		return nil
	})
	printed := o.shell(t, script)
	for _, want := range []string{
		`"id":`, "antipode-token: ", // created
		`"accessToken":`, `"refreshToken":`, // signed in
		"an access token is needed",                 // without one
		"200 image/jpeg, ",                          // a thumbnail with a token
		"surrogate-key: asset-",                     // the photo as everybody sees it
		`"firstName":"Jack"`, `"lastName":"Smythe"`, // both changes
		"ap-south, eu-west, us-east",             // whom name servers answer in Mumbai
		"198.18.2.1\n198.18.1.1\n198.18.3.1",     // and in Frankfurt
		"cache-status: eu-west-edge", `"keys":[`, // the edge, and TLS
		"ap-south is DRAINED after", "ap-south is ACTIVE after",
	} {
		if !strings.Contains(strings.ToLower(printed), strings.ToLower(want)) {
			t.Fatalf("the README's walk prints no %s:\n%s", want, printed)
		}
	}

	if n := strings.Count(strings.ToLower(printed), "content-type: image/"); n != 3 {
		t.Errorf("the README's walk shows %d headers of images, want those of a signed and of a public address, and of the edge:\n%s", n, printed)
	}

	// What its last commands may have been too early for.
	await.Until(t, "all regions hold the same", patience, func(ctx context.Context) error {
		out, err := o.command(ctx, "digest").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	var report lab.ConflictReport
	o.read(t, &report, "conflicts", "list")
	if len(report.Conflicts) != 1 || report.Conflicts[0].Field != "display_name" {
		t.Fatalf("the walk leaves one conflict, about display_name, but there are %+v", report.Conflicts)
	}
	lost := report.Conflicts[0]
	if out := o.must(t, "conflicts", "show", lost.Name); !strings.Contains(out, lost.UserID) || !strings.Contains(out, lost.Won) {
		t.Errorf("conflicts show lacks user or winner:\n%s", out)
	}
	o.must(t, "conflicts", "restore", lost.Name)
	o.must(t, "sync")
	user = o.shell(t, o.asJohn(s, "curl -sf http://127.10.1.1:8080/v1/users/"+lost.UserID))
	if !strings.Contains(user, `"displayName":`+lost.Lost) {
		t.Fatalf("after restoring %s: %s", lost.Lost, user)
	}
	o.sees(t, user)
	return user
}

// asJohn signs the README's user in, in the first region, and makes a request as him.
func (o *operator) asJohn(s lab.Status, curl string) string {
	return o.as(s, `{"email":"john@example.com","password":"correct horse battery"}`, curl)
}

// as signs a user in, in the first region, and makes a request as that.
func (o *operator) as(s lab.Status, credentials, curl string) string {
	return o.mine(s, fmt.Sprintf(`
		ACCESS=$(curl -sf http://127.10.1.1:8080/v1/sessions --json '%s' | grep -o '"accessToken":"[^"]*' | cut -d'"' -f4)
		%s -H "authorization: Bearer $ACCESS"`, credentials, curl))
}

// admin makes an administrator, twice, and looks at all users as that.
func (o *operator) admin(t *testing.T, s lab.Status) {
	t.Helper()
	var made, again struct {
		ID, Email, Password string
		Created             bool
	}
	o.read(t, &made, "admin", "create", "--email", "root@example.com", "--generate-password")
	o.read(t, &again, "admin", "create", "--email", "Root@example.com", "--generate-password")
	if !made.Created || made.Email != "root@example.com" || made.Password == "" || again.ID != made.ID || again.Created || again.Password != "" {
		t.Errorf("an administrator is made as %+v, and then as %+v", made, again)
	}
	all := o.shell(t, o.as(s, fmt.Sprintf(`{"email":%q,"password":%q}`, made.Email, made.Password), "curl -sf http://127.10.1.1:8080/v1/users"))
	for _, email := range []string{"root@example.com", "john@example.com"} {
		if !strings.Contains(all, `"`+email+`"`) {
			t.Errorf("the administrator does not see %s among %s", email, all)
		}
	}
}

// sees wants every region to show the same user.
func (o *operator) sees(t *testing.T, user string) {
	t.Helper()
	s := o.status(t)
	id := regexp.MustCompile(`"id":"([^"]+)"`).FindStringSubmatch(user)
	if len(id) == 0 {
		t.Fatalf("no id in %s", user)
	}
	for i := range s.Regions {
		url := fmt.Sprintf("http://127.10.%d.1:8080/v1/users/%s", i+1, id[1])
		await.Until(t, s.Regions[i].Name+" shows the user", patience, func(ctx context.Context) error {
			out, err := exec.CommandContext(ctx, "sh", "-c", o.asJohn(s, "curl -sf "+url)).Output()
			if err != nil || string(out) != user {
				return fmt.Errorf("it shows %s (%w), want %s", out, err, user)
			}
			return nil
		})
	}
}

// commands are the indented lines below a heading.
func commands(markdown, heading string) string {
	_, section, _ := strings.Cut(markdown, "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var lines []string
	for line := range strings.Lines(section) {
		if code, ok := strings.CutPrefix(line, "    "); ok {
			lines = append(lines, code)
		}
	}
	return strings.Join(lines, "")
}

// mine turns commands of the README into commands for this lab.
func (o *operator) mine(s lab.Status, script string) string {
	script = strings.ReplaceAll(script, "bin/regionctl", fmt.Sprintf("%s --lab %s --data %s", o.bin, labName(), o.data))
	for i, r := range s.Regions {
		door := netip.MustParseAddrPort(r.Door)
		script = strings.ReplaceAll(script, fmt.Sprintf("127.10.%d.1", i+1), door.Addr().String())
	}
	return strings.ReplaceAll(script, "/var/lib/antipode/main/", s.Dir+"/")
}

func (o *operator) shell(t *testing.T, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "bash", "-c", script).CombinedOutput()
	// The last commands of the walk look at what may still be on its way.
	if err != nil && ctx.Err() != nil {
		t.Fatalf("%v\n%s\n%s", err, script, out)
	}
	return string(out)
}
