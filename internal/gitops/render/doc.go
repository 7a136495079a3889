// Package render turns files of a repository that nobody vouches for into Kubernetes objects: raw manifests, kustomizations and Helm
// charts. It reads nothing but what it is given, opens no connection and starts no process.
//
// # Why it does not trust its libraries
//
// Kustomize clones git repositories with a git of the PATH, and fetches files over HTTP, before it looks at the file system it was given;
// which of its strings are remote depends on their spelling alone. So every kustomization, and everything that it refers to, is read
// first, with the library's own decoding, and a reference is refused unless it names a file or directory of the tree. The library then
// gets a file system that holds the checked files and no other. Configurations of generators, transformers and validators may
// be made by a kustomization of their own, and so carry references that stand in no file: such kustomizations may list resources and do
// nothing else. Only built-in plugins run, and Helm charts inside of kustomizations do not.
//
// Helm resolves "$ref" of a chart's values.schema.json over HTTP and from the local disk: schemas are validated here, with the same library
// and a loader that knows none but the embedded meta schemas. "lookup" finds nothing, and names are not resolved. Sub-charts come from
// charts/ and from nowhere else; packed ones are measured before they are unpacked.
//
// # What is bounded
//
// Sizes and numbers of files are checked before a byte is read, see Limits. YAML is measured, with its aliases expanded, before anything
// is built of it. What a kustomization loads counts as often as it loads it, so that bases that refer to bases twice do not double forever.
//
// What cannot be bounded from outside is a library at work: templates can loop or repeat a string a billion times, replacements can
// copy an object into itself. A run that takes longer than its context returns ErrStuck and leaves a goroutine behind; what it takes in memory
// is for the process's memory limit to stop. Both are why rendering belongs into a process of its own, which ends upon ErrStuck.
package render
