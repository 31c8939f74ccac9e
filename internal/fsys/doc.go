// Package fsys is the only door to the disk: a file that is appended to by vector writes, directories, locks and three
// kinds of sync, small enough to be implemented twice. OS is the machine's file system. Mem is one in memory that loses power,
// fails and fills up on demand, reproducibly: its seed and the order of operations decide every byte.
//
// # What a power loss leaves (Mem.Crash)
//
// Contents. The unit is the page of 4 KiB. A page that was not synced since it was written is found as written, as it
// stood after an earlier append (the first since it became dirty), or as it was last synced, each page on its own:
// late pages can be there and early ones missing, and between overwritten pages the old contents show. What was never synced reads as zeros between pages that are there;
// so does preallocated space. The file is at least as long as at its last sync; it reaches to the end of its last
// surviving page, or to its full size with zeros. A truncation that was not synced happened or did not, and where it
// did not, pages written after it may be found between the old ones. Everything synced is found unchanged.
//
// Names. A creation, removal or rename is durable once its directory is synced (for a rename between directories: one
// of the two), and until then is found or not, each on its own, as far as the others allow. A rename takes place
// as a whole: a file that had a durable name and was renamed is found under the old or the new name, and one that
// was to be replaced is there unless the new one is. A directory is found removed only if its entries are. Syncing a
// file does not make its name durable, nor does syncing a directory make the name of that directory durable.
//
// Processes. Everything opened or locked before returns ErrCrashed, and so does the FS value itself; the next
// incarnation works through the value that Crash returned. Mem.CrashProcess is kill -9: the same without any loss.
//
// # What failures leave
//
// A failed sync of a file writes some of its dirty pages and drops the others, at least one: they count as clean, no
// later sync writes them although it succeeds, and a crash loses them. Until then they read as written (as on ext4 and
// XFS) or as the device has them (as on btrfs); the seed decides once a file system. A page that is written to again is
// dirty as a whole, with what was dropped of it. A failed sync of a directory may leave it deaf: its later syncs succeed
// and make nothing durable. A failed append has written any part of its bytes and says how many; so has one that does
// not fit into the capacity. All other failed operations do nothing. Flip and BreakRead damage the medium.
//
// # How tests use it
//
// FailAt fails one operation by its number, an Injector by kind and path; CrashAt stops the machine within an operation;
// counting with Ops first lets a test go through all of them. Clone takes the state as it is, so that one state can be
// crashed under many seeds. Stats counts the faults that bit.
//
// # What is not modelled
//
// Pages torn within themselves other than at the end of an append; a page that a failed sync dropped leaving the cache
// before a crash; syncs that lie without ever failing; hard and symbolic links, permissions, times, several processes at
// once; space for directories and blocks (a file costs its size); devices that fail for ever, slowness and hangs. An
// unsynced removal or rename never takes effect in part, and entries are never damaged.
//
// # What the machine's file system promises
//
// Linux: vectors are written by pwritev, SyncData is fdatasync, Preallocate fallocate, SyncFS syncfs, Lock flock.
// A failure of background write-back is reported once to each open file: sync before closing, or an error can go unheard.
// macOS: SyncData is F_FULLFSYNC; SyncFS syncs the tree below its argument, file by file. Windows: the same SyncFS,
// vectors are written buffer by buffer, Preallocate does nothing, SyncDir only checks that the directory is there (NTFS
// journals its entries in order). So callers give SyncFS the root of all that they want durable.
package fsys
