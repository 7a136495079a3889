package backend

// Ref says which commit of a repository is meant. At most one field is set; none stands for the project's default branch.
type Ref struct {
	// Branch and Tag are short names.
	Branch, Tag string
	// Commit is a full commit id.
	Commit string
}

// String is how a ref is told to users.
func (r Ref) String() string {
	switch {
	case r.Branch != "":
		return "branch " + r.Branch
	case r.Tag != "":
		return "tag " + r.Tag
	case r.Commit != "":
		return "commit " + r.Commit
	default:
		return "default branch"
	}
}

// Entry is what a tree of a commit has at a path.
type Entry struct {
	// Path is slash-separated, from the root of the repository.
	Path string
	// ID is the id of the object. A file that is asked for by its path only has none yet.
	ID string
	// File is a regular file, as opposed to a folder, a symbolic link or a submodule.
	File bool
}
