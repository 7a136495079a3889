package agent

import (
	"strconv"
	"strings"
)

// far is a distance between versions that are not to be compared.
const far = 1000

// distance is how many minor versions lie between two versions; far between majors, 0 where one cannot be read.
func distance(a, b string) int {
	aMajor, aMinor, ok := parse(a)
	bMajor, bMinor, ok2 := parse(b)
	switch {
	case !ok || !ok2:
		return 0
	case aMajor != bMajor:
		return far
	case aMinor > bMinor:
		return aMinor - bMinor
	default:
		return bMinor - aMinor
	}
}

func parse(text string) (major, minor int, ok bool) {
	parts := strings.SplitN(strings.TrimPrefix(text, "v"), ".", 3)
	if len(parts) < 2 {
		return 0, 0, false
	}
	major, err := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return major, minor, err == nil && err2 == nil
}
