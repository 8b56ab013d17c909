package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"antipode.example/regions/lab/engine"
)

func logsDir(dir string) string { return filepath.Join(dir, "logs") }

// KeysDir holds the keys of a lab whose directory is dir.
func KeysDir(dir string) string { return engine.Site{Dir: dir}.KeysDir() }

// binDir holds the programs that a lab was started with.
func binDir(dir string) string { return filepath.Join(dir, "bin") }

// LogFile is where a component of a region writes what it prints, in a lab whose directory is dir.
func LogFile(dir, region, component string) string {
	return filepath.Join(logsDir(dir), region, component+".log")
}

// SupervisorLog is where the daemon of a lab in dir writes.
func SupervisorLog(dir string) string { return filepath.Join(logsDir(dir), "supervisor.log") }

// OpenSupervisorLog opens that log to append to it.
func OpenSupervisorLog(o Options) (*os.File, error) {
	o, err := o.Complete()
	if err != nil {
		return nil, err
	}
	path := SupervisorLog(o.Dir())
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of logs: %w", err)
	}
	if err := rotate(path); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("opening the supervisor's log: %w", err)
	}
	return log, nil
}

func (r *Region) logFile(component string) string {
	return LogFile(r.lab.site.Dir, r.Topology.Name, component)
}

func brokerDir(o Options) string { return filepath.Join(o.CacheDir, "kafka") }

// writeUnit makes a component's directory and writes its files.
func (l *Lab) writeUnit(u engine.Unit) error {
	region := filepath.Base(filepath.Dir(u.Dir))
	for _, dir := range []string{l.site.RegionDir(region), filepath.Join(logsDir(l.site.Dir), region)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making a directory of the region: %w", err)
		}
	}
	for _, dir := range append([]string{u.Dir, filepath.Join(u.Dir, "data")}, u.Shared...) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making the directory of %s: %w", u.Name, err)
		}
		if err := give(dir, l.credential); err != nil {
			return err
		}
	}
	for name, text := range u.Files {
		if err := replaceFile(filepath.Join(u.Dir, name), []byte(text), 0o600, l.credential); err != nil {
			return err
		}
	}
	return nil
}

// install copies the lab's own programs beside its data: the engines' user can read them there, wherever they were built,
// and a build does not change a running lab.
func install(p engine.Programs, dir string) (engine.Programs, error) {
	bin := binDir(dir)
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return p, fmt.Errorf("making the directory of programs: %w", err)
	}
	copied := func(program string) (string, error) {
		to := filepath.Join(bin, filepath.Base(program))
		if err := copyProgram(program, to); err != nil {
			return "", fmt.Errorf("copying %s: %w", program, err)
		}
		return to, nil
	}
	var err error
	if p.Self, err = copied(p.Self); err != nil {
		return p, err
	}
	services := map[string]string{}
	for service, program := range p.Services {
		if services[service], err = copied(program); err != nil {
			return p, err
		}
	}
	p.Services = services
	for _, program := range []*string{&p.Traffic, &p.GeoDNS} {
		if *program == "" {
			continue // the lab runs without services
		}
		if *program, err = copied(*program); err != nil {
			return p, err
		}
	}
	return p, nil
}

// copyProgram copies a program unless the copy is there already.
func copyProgram(from, to string) error {
	src, err := os.Stat(from)
	if err != nil {
		return err
	}
	if dst, err := os.Stat(to); err == nil && dst.Size() == src.Size() && dst.ModTime().Equal(src.ModTime()) {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // read only
	tmp := to + ".new"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(tmp, 0o755), os.Chtimes(tmp, src.ModTime(), src.ModTime())); err != nil {
		return err
	}
	return os.Rename(tmp, to)
}

// maxLog is the size at which a log is moved aside; one older log is kept.
const maxLog = 16 << 20

// rotate moves a log aside when it is large. Running processes append to the file that they opened, so its text is copied and
// the file emptied; a line that is written in between is lost.
func rotate(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at a log: %w", err)
	}
	if info.Size() < maxLog {
		return nil
	}
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("rotating a log: %w", err)
	}
	defer in.Close() //nolint:errcheck // read only
	out, err := os.OpenFile(path+".1", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("rotating a log: %w", err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("rotating %s: %w", path, err)
	}
	if err := os.Truncate(path, 0); err != nil {
		return fmt.Errorf("rotating %s: %w", path, err)
	}
	return nil
}

const lastLineMost = 4096

// lastLine is the last line of a log, for an error; empty when there is none.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	text := make([]byte, min(info.Size(), lastLineMost))
	if _, err := f.ReadAt(text, info.Size()-int64(len(text))); err != nil {
		return ""
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	if last := lines[len(lines)-1]; len(last) > 0 {
		return ": " + string(last)
	}
	return ""
}
