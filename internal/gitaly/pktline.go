package gitaly

import (
	"strconv"
	"strings"
)

const (
	lengthDigits  = 4
	maxPacket     = 65520
	flushPacket   = 0
	errorLine     = "ERR "
	maxQuotedText = 200
)

// packets takes git's pkt-lines off an answer, one after the other.
type packets struct{ rest string }

// next returns the next line without its line feed; flush says that it is the packet that ends a section. What only newer
// versions of the protocol have is refused, as is the end of the data.
func (p *packets) next() (line string, flush bool, err error) {
	if len(p.rest) < lengthDigits {
		return "", false, protocolError("the answer ends too early")
	}
	size, bad := strconv.ParseUint(p.rest[:lengthDigits], 16, 16)
	switch {
	case bad != nil:
		return "", false, protocolError("a line begins without its length")
	case size == flushPacket:
		p.rest = p.rest[lengthDigits:]
		return "", true, nil
	case size < lengthDigits || size > maxPacket:
		return "", false, protocolError("a line has the impossible length " + p.rest[:lengthDigits])
	case size > uint64(len(p.rest)):
		return "", false, protocolError("the answer ends within a line")
	}
	line, p.rest = p.rest[lengthDigits:size], p.rest[size:]
	line = strings.TrimSuffix(line, "\n")
	if text, ok := strings.CutPrefix(line, errorLine); ok {
		return "", false, protocolError("git says: " + strings.ToValidUTF8(text[:min(len(text), maxQuotedText)], "?"))
	}
	return line, false, nil
}
