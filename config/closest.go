package config

// Closest returns the known variable that name is most likely a misspelling of, and "" when none is near. The worker
// suggests it for each of [Config.Unknown].
func Closest(name string) string {
	closest, least := "", 4 // three letters wrong is a slip, more is another word
	for _, v := range Table() {
		if d := distance(name, v.Name); d < least {
			closest, least = v.Name, d
		}
	}
	return closest
}

// distance counts the letters to insert, drop or replace to make b of a (Levenshtein), in one row of the matrix.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(row[j+1]+1, row[j]+1, replaced)
		}
	}
	return row[len(b)]
}
