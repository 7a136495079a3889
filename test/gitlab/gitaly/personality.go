package gitaly

import (
	"path"
	"time"

	"google.golang.org/grpc/codes"
)

// Personality is a release whose behaviour differs from that of others.
type Personality int

// Personalities, oldest first.
const (
	V13_0 Personality = iota + 1
	V13_12
	V16_2
	V16_5
	V16_11
	V18
)

// Personalities are all of them, by name.
var Personalities = map[string]Personality{
	"13.0": V13_0, "13.12": V13_12, "16.2": V16_2, "16.5": V16_5, "16.11": V16_11, "18": V18,
}

// PersonalityOf is the personality nearest to a GitLab release.
func PersonalityOf(major, minor int) Personality {
	switch {
	case major < 13 || major == 13 && minor < 6:
		return V13_0
	case major == 13:
		return V13_12
	case major < 16 || major == 16 && minor < 3:
		return V16_2
	case major == 16 && minor < 8:
		return V16_5
	case major == 16:
		return V16_11
	}
	return V18
}

func (p Personality) version() string {
	return map[Personality]string{
		V13_0: "13.0.14", V13_12: "13.12.15", V16_2: "16.2.9", V16_5: "16.5.8", V16_11: "16.11.6", V18: "18.3.2",
	}[p]
}

// pingFloor is how often clients may ping; 0: gRPC's default.
func (p Personality) pingFloor() time.Duration {
	switch p {
	case V13_0:
		return 0
	case V13_12:
		return 20 * time.Second
	}
	return 10 * time.Second
}

// failed is the code of what nobody classified.
func (p Personality) failed() codes.Code {
	if p < V16_2 {
		return codes.Unknown
	}
	return codes.Internal
}

// knows says whether a method is there, by its last part.
func (p Personality) knows(fullMethod string) bool {
	switch path.Base(fullMethod) {
	case "ListRefs", "ObjectFormat":
		return p >= V16_2
	}
	return true
}
