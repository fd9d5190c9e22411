package config

import (
	"encoding/json"
	"strconv"
)

// Schema returns a JSON Schema (2020-12) of the file, for editors and CI. It
// comes from the decoder's own table and knows all but what shows only when
// values are seen together.
func Schema() []byte {
	schema := root().schema()
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = "certd.yaml"
	// Nothing in it cannot be marshalled.
	text, _ := json.MarshalIndent(schema, "", "  ")
	return append(text, '\n')
}

const (
	durationPattern = `^(?=.)([0-9]+y)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$`
	datePattern     = `^[0-9]{4}-[0-9]{2}-[0-9]{2}$`
	namePattern     = `^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`
)

func (f field) schema() map[string]any {
	s := map[string]any{}
	if f.doc != "" {
		s["description"] = f.doc
	}
	switch f.kind {
	case kindObject, kindSecret:
		fields, oneOf := f.fields, f.oneOf
		if f.kind == kindSecret {
			oneOf = []string{"file", "env", "credential"}
			for _, name := range oneOf {
				fields = append(fields, secretField(name))
			}
		}
		objectSchema(s, fields, oneOf)
	case kindList:
		items := map[string]any{}
		objectSchema(items, f.fields, f.oneOf)
		s["type"], s["items"] = "array", items
	case kindDomains:
		s["type"], s["items"] = "array", field{kind: kindDomain}.schema()
	case kindWords:
		s["type"], s["items"] = "array", field{kind: kindWord, words: f.words}.schema()
	case kindCount:
		s["type"], s["minimum"], s["maximum"] = "integer", 1, f.most
	case kindMap:
		items := map[string]any{}
		objectSchema(items, f.fields, f.oneOf)
		s["type"], s["additionalProperties"], s["propertyNames"] = "object", items, map[string]any{"pattern": namePattern}
	case kindLabels:
		s["type"], s["additionalProperties"] = "object", map[string]any{"type": "string"}
	case kindBool:
		s["type"] = "boolean"
	default:
		s["type"] = "string"
	}
	switch f.kind {
	case kindDuration:
		s["pattern"] = durationPattern
	case kindName:
		s["pattern"] = namePattern
	case kindDate:
		s["pattern"] = datePattern
	case kindURL:
		s["pattern"] = "^https?://"
	case kindListen:
		s["pattern"] = "^.*:[0-9]{1,5}$"
	case kindWord:
		s["enum"] = f.words
	case kindID, kindPath, kindMount, kindZone, kindSchedule, kindSelector, kindDomain:
		s["minLength"] = 1
	case kindList, kindDomains, kindWords:
		if f.filled {
			s["minItems"] = 1
		}
	}
	switch {
	case f.builtin == "":
	case f.kind == kindBool:
		s["default"] = f.builtin == "true"
	case f.kind == kindCount:
		s["default"], _ = strconv.Atoi(f.builtin) // a test sees to it that it is a number
	default:
		s["default"] = f.builtin
	}
	return s
}

func objectSchema(s map[string]any, fields []field, oneOf []string) {
	properties := map[string]any{}
	required := []string{}
	for _, f := range fields {
		if f.refused != "" {
			continue
		}
		properties[f.name] = f.schema()
		if f.required {
			required = append(required, f.name)
		}
	}
	s["type"], s["properties"], s["additionalProperties"] = "object", properties, false
	if len(required) > 0 {
		s["required"] = required
	}
	if len(oneOf) > 0 {
		var alternatives []any
		for _, name := range oneOf {
			there := map[string]any{"required": []string{name}}
			if f := (field{fields: fields}).sub(name); f.kind == kindBool {
				there["properties"] = map[string]any{name: map[string]any{"const": true}}
			}
			alternatives = append(alternatives, there)
		}
		s["oneOf"] = alternatives
	}
}
