package blob

import "os"

// SyncWith has a bucket with a file URL sync files and directories by another function.
func SyncWith(b *Bucket, sync func(*os.File) error) { b.keeper.(*directory).sync = sync }
