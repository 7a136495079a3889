// Package gitaly reads the repositories of a GitLab through its Gitaly servers, or through Praefect, which speaks the same: which
// commit a branch or tag points to, what a commit has in its folders, its files one by one or many at once, and which agents have a
// configuration file. It understands Gitaly 13 to 18.
//
// Three rules run through it. Polling is cheap: the advertisement of all refs costs an unchanged repository no process at all, so
// it is asked for first, exactly as Gitaly's cache wants it, once for all who wait for the same repository; repositories with too
// many refs are asked for the one ref. Nothing is believed to be gone on one answer that may be stale: what is missing is asked
// for again at the primary node, and a missing commit or repository is never taken for a missing file, because a missing file is
// an empty configuration. And whatever a server says, an agent hears only what its user can mend; all else is a fault of kind
// Unavailable, which callers retry, and mistakes of the operator are logged.
package gitaly
