// Package blob keeps the content-addressed blobs of one region, and brings them from the regions that have them.
//
// It owns a bucket (gocloud.dev/blob) on a file system or in S3, in which a blob's key is its SHA-256, and a spool, a directory of each process. A blob is never changed; what a blob is (its type, its owner)
// is in the records that name it. All instances of a region share the bucket.
//
// # Guarantees
//
// A blob is in the bucket whole or not at all, whenever a process is killed. When Put, PutExpected or Fetch returns nil, it is there also after a power cut: with a file URL its file and the directories
// above it are synced (fileblob itself syncs nothing, so it is not used for writing); with S3 the service has answered.
//
// Content goes through the spool: it is hashed on the way into a file, and the file becomes the blob, by a rename or by an upload. So nothing is in the bucket that is not a blob, and content that is there already is not
// uploaded again. With S3 it costs the disk that the content takes once more, and the upload begins when all has come; docs/adr/0015 has the reasons.
//
// What comes from another region is hashed before it gets its name here; content that does not have its name's hash is thrown away.
//
// # Bounds
//
// Moving content takes 256 KiB of memory for each Put and pull. Uploads to S3 take up to 60 MiB each, because the SDK holds what it sends, and are at most four at a time; others wait. The spool holds what is on its way, and, for a day, what broken pulls have left.
//
// # Not covered
//
// What a disk changes after it was synced is noticed by the size, and by regions that pull it; nothing reads through the bucket to find it. A process that is killed during an upload to S3 of more than 16 MiB
// leaves parts: give the bucket a rule that aborts incomplete multipart uploads. Which blobs are garbage is for those to say who know the records.
package blob
