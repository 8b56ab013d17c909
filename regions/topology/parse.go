package topology

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Default is the topology that a lab runs when it is asked for none.
const Default = "three"

//go:embed *.yaml
var embedded embed.FS

// ErrInvalid is wrapped by the errors of Parse.
var ErrInvalid = errors.New("invalid topology")

// Load returns the embedded topology of that name (see Names), or reads a file when name contains a slash or ends in .yaml.
func Load(name string) (*Topology, error) {
	if strings.Contains(name, "/") || strings.HasSuffix(name, ".yaml") {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read topology: %w", err)
		}
		return parseFile(name, data)
	}
	data, err := embedded.ReadFile(name + ".yaml")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no topology is called %q: take one of %s, or the path of a .yaml file",
			ErrInvalid, name, strings.Join(Names(), ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("read embedded topology: %w", err)
	}
	return parseFile(name+".yaml", data)
}

func parseFile(file string, data []byte) (*Topology, error) {
	t, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return t, nil
}

// Names lists the embedded topologies.
func Names() []string {
	entries, err := embedded.ReadDir(".")
	if err != nil {
		panic(err) // the root of an embedded file system can be read
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}

// The shape of the file.
type (
	fileTopology struct {
		Name     string        `yaml:"name"`
		Services []string      `yaml:"services"` // all that there are when it is left out
		Regions  []fileRegion  `yaml:"regions"`
		Links    []fileLink    `yaml:"links"`
		World    []filePlace   `yaml:"world"`
		DoorRTT  time.Duration `yaml:"door_rtt"`
	}
	fileRegion struct {
		Name          string `yaml:"name"`
		Number        int    `yaml:"number"`
		Shards        int    `yaml:"shards"`
		NodesPerShard int    `yaml:"nodes_per_shard"`
		Instances     int    `yaml:"instances"`
	}
	fileLink struct {
		Between []string      `yaml:"between"`
		RTT     time.Duration `yaml:"rtt"`
		Jitter  time.Duration `yaml:"jitter"`
		Loss    float64       `yaml:"loss"`
		Rate    Rate          `yaml:"rate"`
	}
	filePlace struct {
		Place   string                   `yaml:"place"`
		Title   string                   `yaml:"title"`
		Address netip.Addr               `yaml:"address"`
		RTT     map[string]time.Duration `yaml:"rtt"`
	}
)

// Parse reads and checks a topology. Its errors wrap ErrInvalid and name every fault that was found, one a line.
func Parse(data []byte) (*Topology, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	var f fileTopology
	switch err := dec.Decode(&f); {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: the file is empty", ErrInvalid)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrInvalid, readable(err))
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: want one YAML document, found more", ErrInvalid)
	}
	t, faults := f.build(Services())
	if len(faults) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, errors.Join(faults...))
	}
	return t, nil
}

var unknownKey = regexp.MustCompile(`field (\S+) not found in type \S+`)

// readable keeps Go's type names out of the messages of the YAML library.
func readable(err error) error {
	var te *yaml.TypeError
	if !errors.As(err, &te) {
		return err
	}
	faults := make([]error, 0, len(te.Errors))
	for _, e := range te.Errors {
		e = unknownKey.ReplaceAllString(e, "unknown key $1")
		e = strings.ReplaceAll(e, "into time.Duration", "into a duration such as 80ms")
		faults = append(faults, errors.New(e))
	}
	return errors.Join(faults...)
}
