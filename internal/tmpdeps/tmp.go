// Package tmpdeps pins modules while rooms are being written.
package tmpdeps

import (
	_ "helm.sh/helm/v3/pkg/chart/loader"
	_ "helm.sh/helm/v3/pkg/engine"
	_ "helm.sh/helm/v3/pkg/storage/driver"
	_ "k8s.io/cli-runtime/pkg/genericclioptions"
	_ "k8s.io/kubectl/pkg/cmd/util"
	_ "sigs.k8s.io/cli-utils/pkg/apply"
	_ "sigs.k8s.io/cli-utils/pkg/kstatus/watcher"
	_ "sigs.k8s.io/kustomize/api/krusty"
	_ "github.com/bmatcuk/doublestar/v4"
	_ "sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)
