package render

import "bytes"

// document is one YAML document, or several JSON values, of a file.
type document struct {
	// text begins with its marker line, if it has one.
	text []byte
	// line is the file's line, from 1, that text begins with.
	line int
}

var byteOrderMark = []byte{0xEF, 0xBB, 0xBF}

// split cuts a file where YAML documents end: before a line that begins with "---" and after one that begins with "...". YAML allows
// neither inside of a scalar. Directives before a document are left out, and so are documents of nothing but comments.
func split(data []byte) []document {
	data = lineFeeds(data)
	var docs []document
	current := document{line: 1}
	start, line := 0, 1
	flush := func(end, nextStart, nextLine int) {
		current.text = data[start:end]
		if !blank(current.text) {
			docs = append(docs, current)
		}
		start, current = nextStart, document{line: nextLine}
	}
	for at := 0; at < len(data); line++ {
		end := len(data)
		if newline := bytes.IndexByte(data[at:], '\n'); newline >= 0 {
			end = at + newline + 1
		}
		switch {
		case marker(data[at:end], "---"):
			flush(at, at, line)
		case marker(data[at:end], "..."):
			flush(at, end, line+1)
		}
		at = end
	}
	flush(len(data), len(data), line)
	return docs
}

// lineFeeds is text without a byte order mark in which every line ends with a line feed, as YAML reads it anyway.
func lineFeeds(text []byte) []byte {
	text = bytes.TrimPrefix(text, byteOrderMark)
	if bytes.IndexByte(text, '\r') < 0 {
		return text
	}
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	return bytes.ReplaceAll(text, []byte("\r"), []byte("\n"))
}

// lastLine is the line that the document's text ends on. A parser that knows line breaks which are none in a file counts beyond it.
func (d document) lastLine() int {
	return d.line + bytes.Count(bytes.TrimRight(d.text, "\n"), []byte("\n"))
}

// marker says whether a line is the given mark between documents.
func marker(line []byte, mark string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(mark))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\n"), rest[0]) >= 0)
}

// blank says whether lines hold nothing but a marker, space, comments and directives.
func blank(text []byte) bool {
	for line := range bytes.Lines(text) {
		if marker(line, "---") {
			line = line[3:]
		} else if line[0] == '%' {
			continue
		}
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}
