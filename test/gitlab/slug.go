package gitlab

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
)

// slugLimit is the length of an environment's slug, which becomes part of names in a cluster.
const slugLimit = 24

var notSlug = regexp.MustCompile(`[^a-z0-9]+`)

// slugOf is the slug of an environment name: fit for DNS, and different for names that only differ in what a slug cannot say.
func slugOf(name string) string {
	slug := strings.Trim(notSlug.ReplaceAllString(strings.ToLower(name), "-"), "-")
	if slug == "" || slug[0] < 'a' {
		slug = "env-" + slug
	}
	if slug == name && len(slug) <= slugLimit {
		return slug
	}
	sum := sha256.Sum256([]byte(name))
	const suffix = 6
	if len(slug) > slugLimit-suffix-1 {
		slug = strings.TrimRight(slug[:slugLimit-suffix-1], "-")
	}
	return slug + "-" + hex.EncodeToString(sum[:])[:suffix]
}

// refSlug is the slug of a branch or tag.
func refSlug(ref string) string {
	slug := notSlug.ReplaceAllString(strings.ToLower(ref), "-")
	return strings.Trim(slug[:min(len(slug), 63)], "-")
}

var tierOfName = []struct {
	tier string
	name *regexp.Regexp
}{
	{"development", regexp.MustCompile(`(?i)dev|review|trunk`)},
	{"testing", regexp.MustCompile(`(?i)test|tst|qc|qa`)},
	{"staging", regexp.MustCompile(`(?i)stag|stg|model|demo|pre`)},
	{"production", regexp.MustCompile(`(?i)prod|prd|live`)},
}

// guessTier is the tier of an environment that says none.
func guessTier(name string) string {
	for _, t := range tierOfName {
		if t.name.MatchString(name) {
			return t.tier
		}
	}
	return "other"
}
