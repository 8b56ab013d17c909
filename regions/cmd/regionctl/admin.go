package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"antipode.example/regions/caller"
	"antipode.example/regions/lab"
)

func newAdmin(s *settings) *cobra.Command {
	admin := &cobra.Command{
		Use:   "admin",
		Short: "Make administrators",
		Long: `An administrator is a user who may do for every user what that user may do, list and look up users, and make others administrators. The first one is
made by whoever can read the lab's keys.`,
	}
	admin.AddCommand(s.adminCreate())
	return admin
}

// secretSource is where a password comes from.
type secretSource struct {
	file     string
	generate bool
	prompt   func() (string, error)
	// generated is what was made up; empty if nothing was.
	generated string
}

func (s *settings) adminCreate() *cobra.Command {
	var email string
	var existing bool
	secret := &secretSource{}
	cmd := &cobra.Command{
		Use:   "create --email EMAIL",
		Short: "Sign an administrator up, or make a user one",
		Long: `create signs a user up, with a password from a file, or one that it makes up and prints, or, by default, one that it asks for, and makes the user an administrator. It may
be repeated.

If the address belongs to somebody already, it does nothing: anybody may sign up with any address. With --existing it makes that user an administrator, who keeps the
password.

It goes through the API of whichever region answers, and signs its requests with the keys of the lab, which belong to root.`,
		Example: `  regionctl admin create --email root@example.com
  regionctl admin create --email root@example.com --generate-password
  regionctl admin create --email root@example.com --password-file /run/secrets/root`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			secret.prompt = func() (string, error) { return askPassword(cmd.Context(), cmd.InOrStdin(), cmd.ErrOrStderr(), email) }
			status, err := s.client().Status(cmd.Context())
			if err != nil {
				return s.advise(err)
			}
			made, err := s.makeAdmin(cmd.Context(), status, email, existing, secret)
			if err != nil {
				return err
			}
			return s.show(cmd.OutOrStdout(), made, func(out io.Writer) { writeAdmin(out, made) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&email, "email", "", "the user's e-mail address")
	f.BoolVar(&existing, "existing", false, "make an administrator of a user who is there already")
	f.StringVar(&secret.file, "password-file", "", "read the password from this file (- for standard input) instead of asking for it")
	f.BoolVar(&secret.generate, "generate-password", false, "make up a password, and print it")
	cmd.MarkFlagsMutuallyExclusive("password-file", "generate-password")
	if err := cmd.MarkFlagRequired("email"); err != nil {
		panic(err) // the flag doesn't exist: a mistake in this program
	}
	mustComplete(cmd, "email", cobra.NoFileCompletions)
	return cmd
}

// madeAdmin is what create has done.
type madeAdmin struct {
	caller.Admin
	// Password is the one that was made up.
	Password string `json:"password,omitempty"`
}

func (s *settings) makeAdmin(ctx context.Context, status lab.Status, email string, existing bool, secret *secretSource) (madeAdmin, error) {
	operator, err := caller.OpenOperator(lab.KeysDir(status.Dir), status.Regions[0].Name)
	if errors.Is(err, fs.ErrPermission) {
		return madeAdmin{}, fmt.Errorf("%w\n    fix: the lab's keys belong to root: sudo %s", err, s.command("admin create --email "+email))
	}
	if err != nil {
		return madeAdmin{}, err
	}
	regions := make([]caller.Region, len(status.Regions))
	for i, r := range status.Regions {
		regions[i] = caller.Region{Name: r.Name, Address: r.Door}
	}
	made, err := operator.MakeAdmin(ctx, regions, email, existing, secret.read)
	if errors.Is(err, caller.ErrStranger) {
		return madeAdmin{}, fmt.Errorf("making %s an administrator: %w\n    fix: if it is, %s", email, err, s.command("admin create --existing --email "+email))
	}
	if err != nil {
		return madeAdmin{}, fmt.Errorf("making %s an administrator: %w", email, err)
	}
	done := madeAdmin{Admin: made}
	if made.Created {
		done.Password = secret.generated
	}
	return done, nil
}

func writeAdmin(out io.Writer, made madeAdmin) {
	how := "who was there already and keeps the password"
	if made.Created {
		how = "signed up now"
	}
	fmt.Fprintf(out, "%s is an administrator: user %s, %s\n", made.Email, made.ID, how)
	if made.Password != "" {
		fmt.Fprintf(out, "password: %s\n", made.Password)
	}
}

// read is the password of a new user.
func (s *secretSource) read() (string, error) {
	switch {
	case s.generate:
		s.generated = strings.ToLower(rand.Text())
		return s.generated, nil
	case s.file == "-":
		return firstLine(os.Stdin)
	case s.file != "":
		f, err := os.Open(s.file)
		if err != nil {
			return "", fmt.Errorf("reading the password: %w", err)
		}
		defer f.Close() //nolint:errcheck // read only
		return firstLine(f)
	}
	return s.prompt()
}

// passwordMost is what the API takes, in bytes.
const passwordMost = 1024

// firstLine is a password from a file of one line.
func firstLine(in io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(in, 2*passwordMost))
	if err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	line, rest, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" || rest != "" {
		return "", errors.New("reading the password: one line is wanted, with the password and nothing else")
	}
	return line, nil
}

// askPassword asks a person for a new password, twice and unseen.
func askPassword(ctx context.Context, in io.Reader, out io.Writer, email string) (string, error) {
	terminal, ok := in.(*os.File)
	if !ok || !isTerminal(terminal) {
		return "", errors.New("a new user needs a password, and there is no terminal to ask for one: give --password-file (- for standard input) or --generate-password")
	}
	var typed [2]string
	for i, what := range []string{"password for " + email, "once more"} {
		fmt.Fprintf(out, "%s: ", what)
		line, err := readUnseen(ctx, terminal)
		fmt.Fprintln(out)
		if err != nil {
			return "", fmt.Errorf("reading the password: %w", err)
		}
		typed[i] = line
	}
	if typed[0] != typed[1] {
		return "", errors.New("the two passwords differ")
	}
	return typed[0], nil
}
