// Package syncjournal makes the unsynced bytes of many files durable by one sync of one file: they are written once
// more, together, into a file that was filled with zeros before, so that a sync of it changes no metadata. It knows
// nothing of logs: what it keeps are frames of bytes, each with the place in a segment that it is a copy of.
//
// # Life of a frame
//
// [Journal.Write] makes a round of frames durable. Whoever syncs the segments themselves later says so by
// [Journal.Release], and the space is used again. After a crash [Read] finds the frames that were neither released nor
// forgotten, in the order in which they were written; they are put back into their segments before any log opens, and then
// [Journal.Clear] makes nothing live.
//
// There are two files. Each is used from its beginning to its end by one generation, in turns: generation g lies in
// file g mod 2. A generation is live from its beginning until it is released, and a file takes the next generation only when
// the one in it is not live.
//
// # What the caller must keep
//
//   - A frame is a copy of bytes that were written to the segment before, at the same place. Putting back a frame whose bytes
//     are in the segment changes nothing.
//   - Whatever changes a log otherwise than by appending makes the log's segments durable and calls [Journal.Forget] first,
//     as long as [Journal.Holds] says that live generations have frames of it. A release counts from its return on: until
//     then a crash may bring its frames back.
//
// # Damage
//
// A round is synced before the next is written. So a last round that is torn was never acknowledged and is no fault,
// and a torn one that has a later one behind it is damage. The bytes of earlier laps are told apart by generation and round
// number, and bytes that clients send by a salt that they cannot know. docs/format/sync-journal.md has the format.
//
// All methods of [Journal] may be called from any goroutine; one mutex is held through writes and syncs. No clock, no
// goroutine and no random number is used here.
package syncjournal
