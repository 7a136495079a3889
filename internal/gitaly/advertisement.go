package gitaly

import (
	"regexp"
	"strings"
)

const (
	serviceLine    = "# service=git-upload-pack"
	headRef        = "HEAD"
	branchPrefix   = "refs/heads/"
	tagPrefix      = "refs/tags/"
	peeledSuffix   = "^{}"
	noRefs         = "capabilities" + peeledSuffix
	shallowPrefix  = "shallow "
	formatPrefix   = "object-format="
	defaultFormat  = "sha1"
	sha1Digits     = 40
	sha256Digits   = 64
	branchMain     = branchPrefix + "main"
	branchMaster   = branchPrefix + "master"
	capabilityMark = "\x00"
)

// state is what became of a ref.
type state uint8

const (
	// missing: the repository has refs, but not this one.
	missing state = iota
	// empty: the repository has no refs at all.
	empty
	// found: the ref points to a commit.
	found
)

// answer is where a ref points to.
type answer struct {
	state  state
	commit string // set if state is found
}

// advertisement is all refs of a repository as git announces them to those who want to fetch.
type advertisement struct {
	// tooLong: there is more than is read of any repository, and the rest is not known.
	tooLong bool
	// refs has the commit, or other object, that each ref points to in the end.
	refs map[string]string
	// firstBranch is the first branch by name, "" if there is none.
	firstBranch string
}

// parseAdvertisement reads a complete answer of protocol version 0.
func parseAdvertisement(data string) (*advertisement, error) {
	lines := packets{rest: data}
	first, flush, err := lines.next()
	if err != nil {
		return nil, err
	}
	if flush || first != serviceLine {
		return nil, protocolError("the answer does not begin with its service")
	}
	_, flush, err = lines.next()
	if err != nil {
		return nil, err
	}
	if !flush {
		return nil, protocolError("the service is not followed by a flush")
	}
	parser := refParser{advertisement: &advertisement{refs: map[string]string{}}}
	for {
		line, flush, err := lines.next()
		if err != nil {
			return nil, err
		}
		if flush {
			break
		}
		if err := parser.line(line); err != nil {
			return nil, err
		}
	}
	if lines.rest != "" {
		return nil, protocolError("something follows the last flush")
	}
	return parser.advertisement, nil
}

// resolve says where a full ref or HEAD points to. A HEAD that names a branch that does not exist stands for the branch that
// Gitaly would choose instead.
func (a *advertisement) resolve(ref string) answer {
	if len(a.refs) == 0 {
		return answer{state: empty}
	}
	candidates := []string{ref}
	if ref == headRef {
		candidates = append(candidates, branchMain, branchMaster, a.firstBranch)
	}
	for _, name := range candidates {
		if commit, ok := a.refs[name]; ok {
			return answer{state: found, commit: commit}
		}
	}
	return answer{state: missing}
}

// refParser reads the lines of the refs section.
type refParser struct {
	*advertisement
	lines  int
	digits int
	// last is the name on the line before, to which a peeled line belongs.
	last string
	// none: the only line said that there are no refs; shallow: no more refs may follow.
	none, shallow bool
}

func (p *refParser) line(line string) error {
	p.lines++
	if p.lines == 1 {
		var capabilities string
		line, capabilities, _ = strings.Cut(line, capabilityMark)
		if err := p.format(capabilities); err != nil {
			return err
		}
	}
	if oid, ok := strings.CutPrefix(line, shallowPrefix); ok && p.lines > 1 {
		p.shallow = true
		return p.check(oid)
	}
	oid, name, ok := strings.Cut(line, " ")
	if !ok || p.none || p.shallow || name == "" || strings.ContainsAny(name, "\x00\n ") {
		return protocolError("a line is not one of a ref")
	}
	if err := p.check(oid); err != nil {
		return err
	}
	zero := strings.Trim(oid, "0") == ""
	if zero || name == noRefs {
		if !zero || name != noRefs || p.lines > 1 {
			return protocolError("a ref points to nothing")
		}
		p.none = true
		return nil
	}
	return p.ref(oid, name)
}

// ref notes one ref. A peeled line follows that of its annotated tag and replaces it: callers want commits.
func (p *refParser) ref(oid, name string) error {
	if base, ok := strings.CutSuffix(name, peeledSuffix); ok {
		if base != p.last || base == "" {
			return protocolError("a peeled ref does not follow its ref")
		}
		p.refs[base] = oid
		p.last = ""
		return nil
	}
	p.refs[name] = oid
	p.last = name
	if p.firstBranch == "" && strings.HasPrefix(name, branchPrefix) {
		p.firstBranch = name
	}
	return nil
}

// format takes the length of object ids from the capabilities.
func (p *refParser) format(capabilities string) error {
	format := defaultFormat
	for capability := range strings.FieldsSeq(capabilities) {
		if value, ok := strings.CutPrefix(capability, formatPrefix); ok {
			format = value
		}
	}
	switch format {
	case defaultFormat:
		p.digits = sha1Digits
	case "sha256":
		p.digits = sha256Digits
	default:
		return protocolError("the repository has an unknown object format")
	}
	return nil
}

func (p *refParser) check(oid string) error {
	if len(oid) != p.digits || !objectID.MatchString(oid) {
		return protocolError("a line is without an object id")
	}
	return nil
}

// objectID is a complete id of an object, in either of git's formats.
var objectID = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
