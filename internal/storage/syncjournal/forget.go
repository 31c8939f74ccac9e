package syncjournal

import (
	"errors"
	"fmt"
	"slices"

	"github.com/penstock-io/penstock/internal/model"
)

// Forget makes the live frames of some logs void, durably, and leaves those of the others live: for a replay that can put only a part of
// what was found back. What it held of these logs is durable in their segments. It writes behind the last round of the newest live
// generation, into the room that Write leaves for it; with ErrFull, where that does not do, and ErrDamaged nothing was written. After
// any other error (ErrFailed) a crash may find the frames or not. No Journal of the directory may be in use.
func (c *Contents) Forget(logs []model.TopicPartition) (err error) {
	logs = slices.DeleteFunc(slices.Clone(logs), func(log model.TopicPartition) bool {
		_, live := c.Ends[log]
		return !live
	})
	switch {
	case len(logs) == 0:
		return nil
	case len(c.Damage) > 0: // what is behind the last round is not known
		return c.Damage[0]
	}
	p := c.parts[len(c.parts)-1]
	f, err := openJournalFile(c.fs, c.dir, int(p.generation%2), false)
	if err != nil {
		return err
	}
	if f == nil || !f.whole || f.head.generation != p.generation || f.head.salt != p.salt {
		return errors.Join(fmt.Errorf("%w: generation %d in %s has changed since it was read", ErrFailed, p.generation, c.dir), closeFile(f))
	}
	defer func() { err = errors.Join(err, closeFile(f)) }()
	return c.forgetIn(f, p, logs)
}

func closeFile(f *journalFile) error {
	if f == nil {
		return nil
	}
	return f.file.Close()
}

// forgetIn goes on with the generation that a file holds.
func (c *Contents) forgetIn(f *journalFile, p *part, logs []model.TopicPartition) error {
	j := &Journal{
		fs: c.fs, dir: c.dir, fileSize: f.head.size, salt: p.salt, open: true, position: p.end, forgets: p.forgets,
	}
	if n := len(p.rounds); n > 0 {
		j.round = p.rounds[n-1].round
	}
	j.files[p.generation%2] = f
	j.generation.Store(p.generation)
	j.oldestLive.Store(c.parts[0].generation)
	chunks := slices.Collect(slices.Chunk(logs, forgetsARound))
	room := j.position + pageBytes // the empty round
	for _, chunk := range chunks {
		room += pageCeil(roundHeaderBytes + frameHeaderBytes*int64(len(chunk)))
	}
	if room > j.dataEnd() {
		return fmt.Errorf("%w: %d bytes are left in %s to forget %d logs", ErrFull, j.dataEnd()-j.position, f.name, len(logs))
	}
	for _, chunk := range chunks {
		frames := make([]Frame, len(chunk))
		for i, log := range chunk {
			frames[i].Log = log
		}
		if err := c.addRound(j, p, frameForget, frames); err != nil {
			return err
		}
	}
	// As in Journal.Forget: a round that forgets must not be the last.
	if err := c.addRound(j, p, frameData, nil); err != nil {
		return err
	}
	for _, log := range logs {
		delete(c.Ends, log)
	}
	return nil
}

// addRound writes a round, and takes it over as if it had been read.
func (c *Contents) addRound(j *Journal, p *part, kind byte, frames []Frame) error {
	at := roundAt{position: j.position, round: j.round + 1}
	length := roundHeaderBytes + frameHeaderBytes*int64(len(frames))
	if err := j.writeRound(kind, length, frames); err != nil {
		return err
	}
	for _, f := range frames {
		p.forgotten[f.Log] = len(p.rounds)
		delete(p.ends, f.Log)
	}
	p.rounds = append(p.rounds, at)
	p.end, p.forgets = j.position, j.forgets
	c.Rounds++
	return nil
}
