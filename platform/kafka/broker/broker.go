// Package broker prepares and describes one Apache Kafka broker that runs as a process: its jars, its class data archive, its properties, its
// command lines. It owns the cache of jars. It does not supervise processes: whoever runs a broker starts the commands.
//
// A start takes these steps: Prepare (once a machine), Settings.Properties into a file, Format unless ClusterID finds that the data folder is formatted, then Run.
package broker

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/google/uuid"
)

// Settings are what differs from broker to broker.
type Settings struct {
	// Listen and Controller are "address:port", both also what clients are told to connect to.
	Listen, Controller string
	// DataDir holds the logs. It must exist before Format.
	DataDir string
	// Retention and RetentionBytes (for each partition) bound topics that do not choose their own; 0 means 24 h and 1 GiB.
	Retention      time.Duration
	RetentionBytes int64
}

// Properties fills in the template deploy/kafka/server.properties.tmpl.
func (s Settings) Properties(tmpl []byte) ([]byte, error) {
	if s.Listen == "" || s.Controller == "" || s.DataDir == "" {
		return nil, errors.New("broker settings need listen, controller and data folder")
	}
	if s.Retention <= 0 {
		s.Retention = 24 * time.Hour
	}
	if s.RetentionBytes <= 0 {
		s.RetentionBytes = 1 << 30
	}
	t, err := template.New("server.properties").Option("missingkey=error").Parse(string(tmpl))
	if err != nil {
		return nil, fmt.Errorf("parse the template of server.properties: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, s); err != nil {
		return nil, fmt.Errorf("fill in server.properties: %w", err)
	}
	return b.Bytes(), nil
}

// NewClusterID makes the name of a broker's life between two formattings.
func NewClusterID() (string, error) {
	for {
		u, err := uuid.NewRandom()
		if err != nil {
			return "", fmt.Errorf("make a cluster id: %w", err)
		}
		if text := base64.RawURLEncoding.EncodeToString(u[:]); text[0] != '-' { // which a command line would take for an option
			return text, nil
		}
	}
}

// ClusterID reads the cluster id of a formatted data folder; it is empty when the folder is not formatted.
func ClusterID(dataDir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dataDir, "meta.properties"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the broker's cluster id: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), "cluster.id="); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", fmt.Errorf("%s names no cluster id", filepath.Join(dataDir, "meta.properties"))
}

// Format is the command that formats the data folder that a properties file names. It takes about 0.6 s.
func (i Install) Format(clusterID, propertiesFile string) []string {
	return append(i.java("-Xmx128m"), "kafka.tools.StorageTool", "format", "-t", clusterID, "-c", propertiesFile, "--standalone")
}

// Run is the command that runs the broker until SIGTERM. It writes its log to standard output. It needs about 180 MB at the start and 340 MB under load.
func (i Install) Run(propertiesFile string) []string {
	return append(i.java("-Xmx384m"), "kafka.Kafka", propertiesFile)
}

// java is the start of every command line. The optimizing compiler is left out: in the minutes after a start it costs more than all
// else that a quiet broker does. The class data archive is skipped silently by a virtual machine that did not make it.
func (i Install) java(heap string) []string {
	args := []string{
		i.Java, heap, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true",
		"-Dlog4j2.level=WARN", "-Dlog4j2.disableJmx=true", "-Xlog:disable", "-Xlog:all=error:stderr",
	}
	if i.Archive != "" {
		args = append(args, "-XX:SharedArchiveFile="+i.Archive)
	}
	return append(args, "-cp", i.classPath())
}

// classPath names each jar: the archive is valid for one order of jars only.
func (i Install) classPath() string {
	return strings.Join(i.Jars, string(os.PathListSeparator))
}
