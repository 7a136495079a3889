package render

import (
	"bytes"
	"errors"
	"fmt"
	"path"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
)

const schemaURL = "file:///values.schema.json"

// noLoader answers a schema that refers to another one.
type noLoader struct{}

// errSchemaElsewhere is the answer.
var errSchemaElsewhere = errors.New("a schema can only refer to itself: nothing is fetched and no other file is read")

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("%.200q: %w", url, errSchemaElsewhere)
}

// validate holds values against the schemas of a chart and of its sub-charts.
func (r *renderer) validate(c *chart.Chart, dir string, values map[string]any) error {
	file := path.Join(dir, chartutil.SchemafileName)
	if c.Schema != nil {
		if err := validateSchema(c.Schema, values); err != nil {
			return mistake(file, 0, "%s", err)
		}
	}
	for _, sub := range c.Dependencies() {
		inner, present := values[sub.Name()]
		if !present || inner == nil {
			continue
		}
		var table map[string]any
		switch inner := inner.(type) {
		case map[string]any:
			table = inner
		case chartutil.Values:
			table = inner
		default:
			return mistake(file, 0, "the values of chart %.100q are not a mapping", sub.Name())
		}
		if err := r.validate(sub, path.Join(dir, "charts", sub.Name()), table); err != nil {
			return err
		}
	}
	return nil
}

func validateSchema(text []byte, values map[string]any) error {
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("is not JSON: %w", err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noLoader{})
	if err := compiler.AddResource(schemaURL, schema); err != nil {
		return err
	}
	compiled, err := compiler.Compile(schemaURL)
	if err != nil {
		return err
	}
	if err := compiled.Validate(values); err != nil {
		return fmt.Errorf("the values do not fit the schema: %w", err)
	}
	return nil
}
