package record

import "testing"

func TestCountWalksWholeBatches(t *testing.T) {
	batch := func(records int) []byte {
		b := NewBuilder(BuilderOptions{})
		for range records {
			if err := b.Add(Record{Value: []byte("v")}); err != nil {
				t.Fatal(err)
			}
		}
		data, err := b.Finish(None, NoProducerID, NoProducerEpoch, NoSequence)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	data := append(batch(3), batch(1)...)
	data = append(data, batch(5)...)
	if batches, records := Count(data); batches != 3 || records != 9 {
		t.Errorf("%d batches of %d records, want 3 of 9", batches, records)
	}
	if batches, records := Count(data[:len(data)-1]); batches != 2 || records != 4 {
		t.Errorf("of a cut one: %d batches of %d records, want 2 of 4", batches, records)
	}
	if batches, _ := Count(make([]byte, 200)); batches != 0 {
		t.Errorf("%d batches in zeros", batches)
	}
}
