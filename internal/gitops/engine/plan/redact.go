package plan

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cli-utils/pkg/object"
)

// quoting are the words after which the API server quotes the value it refuses.
var quoting = []string{"Invalid value:", "Unsupported value:", "Duplicate value:", ", got "}

// Redact takes the values of a Secret out of what the API server says about it: reasons end up in logs, Events and ConfigMaps.
func Redact(id object.ObjMetadata, reason string) string {
	if id.GroupKind != (schema.GroupKind{Kind: "Secret"}) {
		return reason
	}
	for _, words := range quoting {
		if before, _, found := strings.Cut(reason, words); found {
			reason = before + words + " (hidden)"
		}
	}
	return reason
}
