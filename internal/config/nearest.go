package config

import "fmt"

func unknownKey(name string) error {
	return fmt.Errorf("no such key; did you mean %s?", NearestKey(name))
}

// NearestKey returns the name of the key that is spelled most like name.
func NearestKey(name string) string {
	names := make([]string, 0, len(keys))
	for _, key := range keys {
		names = append(names, key.Name)
	}
	return nearest(name, names)
}

// nearest returns the candidate with the smallest edit distance, the first of equals.
func nearest(name string, candidates []string) string {
	best, bestDistance := "", 1<<30
	for _, candidate := range candidates {
		if d := distance(name, candidate); d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// distance is Levenshtein's, over bytes, of names cut to 64.
func distance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
