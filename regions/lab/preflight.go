package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"antipode.example/regions/lab/engine"
	"antipode.example/regions/netns"
	"antipode.example/regions/network"
	"antipode.example/regions/topology"
)

// runUser is who the engines run as when the lab is started by root. PostgreSQL refuses root; its package made this user, so
// it is there wherever a lab can run, and one user for all keeps the files of a lab simple.
const runUser = "postgres"

// Problem is something that keeps a lab from starting.
type Problem struct {
	What string `json:"what"`
	// Fix is what to do about it, a command where there is one.
	Fix string `json:"fix"`
}

// PreflightError lists all that keeps a lab from starting. Nothing was changed.
type PreflightError struct{ Problems []Problem }

func (e *PreflightError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.What + "\n    fix: " + p.Fix
	}
	return "this machine can't run the lab as it is:\n  " + strings.Join(lines, "\n  ")
}

// Machine is what a preflight found.
type Machine struct {
	Programs engine.Programs
	// Credential is who the engines run as; nil means the caller.
	Credential *syscall.Credential
	// DoorBlock is the lab's block of doors, 127.(10+DoorBlock).R.1.
	DoorBlock int
}

// Preflight looks whether the lab can run here and changes nothing. Its error is a *PreflightError when something has to be
// done first.
func Preflight(o Options) (Machine, error) {
	o, err := o.Complete()
	if err != nil {
		return Machine{}, err
	}
	var m Machine
	var problems []Problem
	add := func(p ...Problem) { problems = append(problems, p...) }

	if !network.ValidLab(o.Name) {
		add(Problem{fmt.Sprintf("%q can't be the name of a lab", o.Name), "choose 1 to 32 letters a-z and digits: --lab main2"})
		return m, &PreflightError{problems}
	}
	if err := netns.Supported(); err != nil {
		add(Problem{err.Error(), "run as root (sudo), on a kernel that allows network namespaces and has /dev/net/tun"})
	}
	var found []Problem
	m.Programs, found = findPrograms(o)
	add(found...)
	if os.Geteuid() == 0 {
		cred, err := credential(runUser)
		if err != nil {
			add(Problem{err.Error(), "tools/deps.sh run (the postgresql package makes this user)"})
		}
		m.Credential = cred
	}
	if p := checkData(o); p != nil {
		add(*p)
	}
	block, p := findDoors(o)
	if p != nil {
		add(*p)
	}
	m.DoorBlock = block
	if len(problems) > 0 {
		return m, &PreflightError{problems}
	}
	return m, nil
}

func credential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("there is no user %s to run PostgreSQL as", name)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user id of %s: %w", name, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("group id of %s: %w", name, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// findPrograms finds what is run. The lab's own programs are later copied (see install).
func findPrograms(o Options) (engine.Programs, []Problem) {
	var p engine.Programs
	var problems []Problem
	own := func(name string) string {
		path := filepath.Join(o.BinDir, name)
		if _, err := os.Stat(path); err != nil {
			problems = append(problems, Problem{"the program " + path + " is missing", "make build"})
		}
		return path
	}
	system := func(name string) string {
		// Debian keeps some daemons where users don't look.
		for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
			path := filepath.Join(dir, name)
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return path
			}
		}
		problems = append(problems, Problem{"the program " + name + " is not installed", "tools/deps.sh run"})
		return ""
	}
	p.Self = own("regionctl")
	if !o.WithoutServices {
		p.Services = map[string]string{}
		for _, service := range o.Topology.Services {
			p.Services[service.Name] = own(service.Program)
		}
		p.Traffic, p.GeoDNS = own("trafficd"), own("geodns")
	}
	if p.Patroni = engine.PinnedPatroni(); p.Patroni == "" {
		p.Patroni = system("patroni")
	}
	p.Redis, p.HAProxy = system("redis-server"), system("haproxy")
	p.Varnishd = system("varnishd")
	system("java")
	if p.PostgresBin = postgresBin(); p.PostgresBin == "" {
		problems = append(problems, Problem{"PostgreSQL's server programs are not installed", "tools/deps.sh run"})
	}
	return p, problems
}

// postgresBin finds the newest PostgreSQL of Debian's layout, or the one of the PATH.
func postgresBin() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // the pattern is well formed
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // 0 for what is no number
		return n
	}
	if len(found) > 0 {
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) }))
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(real)
		}
	}
	return ""
}

// checkData refuses a topology that the lab's data were not made for.
func checkData(o Options) *Problem {
	saved, err := readState(o.Dir())
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return &Problem{err.Error(), "regionctl --lab " + o.Name + " --data " + o.DataDir + " clean (removes the lab's data)"}
	}
	if diff := saved.differs(o.Topology); diff != "" {
		return &Problem{
			"the data of lab " + o.Name + " were made for another topology: " + diff,
			"start it with the topology that it had, or remove its data: regionctl --lab " + o.Name + " --data " + o.DataDir + " clean",
		}
	}
	return nil
}

// findDoors finds the block of doors: 0 for the main lab; for another the one that it had, or else the first that is free.
func findDoors(o Options) (int, *Problem) {
	if o.Name == DefaultName {
		if err := doorsFree(o.Topology, 0); err != nil {
			return 0, &Problem{
				err.Error(),
				"end what listens there (ss -ltnp | grep 127.10. shows it), or start under another name: regionctl --lab second up",
			}
		}
		return 0, nil
	}
	blocks := make([]int, 0, topology.MaxDoorBlock+1)
	if saved, err := readState(o.Dir()); err == nil && saved.DoorBlock > 0 {
		blocks = append(blocks, saved.DoorBlock)
	}
	for b := 1; b <= topology.MaxDoorBlock; b++ {
		blocks = append(blocks, b)
	}
	var last error
	for _, b := range blocks {
		if last = doorsFree(o.Topology, b); last == nil {
			return b, nil
		}
	}
	return 0, &Problem{"no block of doors is free: " + last.Error(), "stop a lab: regionctl --lab NAME down"}
}
