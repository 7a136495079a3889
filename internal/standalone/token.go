package standalone

import (
	"crypto/sha256"
	"encoding/hex"
)

// tokenSum is the only form in which this package keeps a token. Looking a sum up in a map tells an attacker who measures time
// nothing about the token: whoever can choose a sum's bits can already invert SHA-256.
type tokenSum [sha256.Size]byte

// HashToken returns the lower-case hexadecimal SHA-256 of a token, as token_sha256 of the configuration file wants it.
func HashToken(token string) string {
	sum := sumToken(token)
	return hex.EncodeToString(sum[:])
}

func sumToken(token string) tokenSum { return sha256.Sum256([]byte(token)) }

// parseSum reads what HashToken writes. Upper case is refused so that one sum has one spelling.
func parseSum(s string) (tokenSum, bool) {
	var sum tokenSum
	n, err := hex.Decode(sum[:], []byte(s[:min(len(s), 2*len(sum))]))
	return sum, err == nil && n == len(sum) && hex.EncodeToString(sum[:]) == s
}
