// Package charts checks the Helm charts with the real helm and a real Kubernetes API.
//
// One case is one folder, testdata/<chart>/<case>:
//
//	values.yaml  what a user would write
//	golden.yaml  what the chart makes of it; "go test ./test/charts -update" rewrites it
//	before.yaml  objects that must exist first, such as namespaces; may be missing
//
// Chart.Matrix lints every case, renders it (which validates the values against the chart's schema), compares it with its golden file,
// lets the API server check every object, and starts each pod template, as a dry run, where PodSecurity enforces "restricted".
package charts
