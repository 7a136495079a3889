package inventory

import (
	"errors"

	"sigs.k8s.io/cli-utils/pkg/inventory"
)

// Refusal says in words why the inventory policy keeps away from an object.
func Refusal(err error) string {
	var policy *inventory.PolicyPreventedActuationError
	if !errors.As(err, &policy) {
		return err.Error()
	}
	owner := "belongs to another inventory"
	if policy.Status == inventory.Empty {
		owner = "exists and belongs to no inventory"
	}
	return owner + "; inventory_policy " + policyNames[policy.Policy] + " leaves it alone"
}

var policyNames = map[inventory.Policy]string{
	inventory.PolicyMustMatch:          "must_match",
	inventory.PolicyAdoptIfNoInventory: "adopt_if_no_inventory",
	inventory.PolicyAdoptAll:           "adopt_all",
}
