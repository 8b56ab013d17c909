package app

import (
	"net"
	"time"

	"antipode.example/platform/config"
	"antipode.example/platform/service"
	"antipode.example/services/asset"
	"antipode.example/services/asset/internal/media"
)

// Config is the configuration file of an instance.
type Config struct {
	service.Config `koanf:",squash"`
	// Bucket is the URL of the region's blobs, which all instances of the region share; see blob.Open. Spool is a directory of this process alone, for content on its way there, and Uploads one that all
	// instances of the region share, for uploads that were interrupted.
	Bucket  string `koanf:"bucket" config:"required"`
	Spool   string `koanf:"spool" config:"required"`
	Uploads string `koanf:"uploads" config:"required"`
	// MaxUploadBytes is what one content may have at most.
	MaxUploadBytes int64 `koanf:"max_upload_bytes"`
	Quota          Quota `koanf:"quota"`
	// ImageMemoryBytes is what a worker takes at most for the images that it looks into at a time.
	ImageMemoryBytes int64 `koanf:"image_memory_bytes"`
	// ReserveBytes is what content leaves free on the disks of spool and uploads, which databases and logs may be on, too.
	ReserveBytes int64 `koanf:"reserve_bytes"`
	// Edges are where the region's caches of public content take purges, host:port; empty where there are none.
	Edges []string `koanf:"edges"`
	// GarbageAfter is how long content stays that no asset names.
	GarbageAfter time.Duration `koanf:"garbage_after"`
}

// Quota is what a user's assets may take up.
type Quota struct {
	Bytes  int64 `koanf:"bytes"`
	Assets int64 `koanf:"assets"`
}

// minGarbageAfter leaves an upload time between its content, which comes first, and its asset.
const minGarbageAfter = time.Minute

// defaults are what the file need not say.
func defaults() Config {
	return Config{
		MaxUploadBytes: 5 << 30, Quota: Quota{Bytes: 100 << 30, Assets: 10_000}, ImageMemoryBytes: media.MinMemory, ReserveBytes: 1 << 30, GarbageAfter: 24 * time.Hour,
	}
}

// Validate refuses what the types alone do not.
func (c *Config) Validate() error {
	for key, n := range map[string]int64{"max_upload_bytes": c.MaxUploadBytes, "quota.bytes": c.Quota.Bytes, "quota.assets": c.Quota.Assets} {
		if n < 1 {
			return config.Errorf(key, "must be at least 1")
		}
	}
	if c.ImageMemoryBytes < media.MinMemory {
		return config.Errorf("image_memory_bytes", "must be at least %d, which any one image may need", int64(media.MinMemory))
	}
	if c.ReserveBytes < 0 {
		return config.Errorf("reserve_bytes", "must not be negative")
	}
	if c.GarbageAfter < minGarbageAfter {
		return config.Errorf("garbage_after", "must be at least %s: an upload's content is there before its asset names it", minGarbageAfter)
	}
	for _, edge := range c.Edges {
		if host, port, err := net.SplitHostPort(edge); err != nil || host == "" || port == "" {
			return config.Errorf("edges", "%q is not an address and port such as 198.18.1.7:8001", edge)
		}
	}
	if c.Spool == c.Uploads {
		return config.Errorf("uploads", "must be another directory than spool, which belongs to one process")
	}
	return nil
}

func (q Quota) usage() asset.Usage { return asset.Usage{Bytes: q.Bytes, Assets: q.Assets} }
