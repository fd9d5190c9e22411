package alert

// A File is one that is made from the table.
type File struct {
	Path string // below the repository's root
	Text []byte
}

// Files are all that are made from the table.
func Files() ([]File, error) {
	var files []File
	for _, f := range []struct {
		path string
		text func() ([]byte, error)
	}{
		{"deploy/alerts/certd.rules.yaml", Rules},
		{"deploy/alerts/prometheusrule.yaml", PrometheusRule},
		{"deploy/grafana/certd.json", Dashboard},
		{"docs/runbooks/README.md", Index},
	} {
		text, err := f.text()
		if err != nil {
			return nil, err
		}
		files = append(files, File{f.path, text})
	}
	return files, nil
}
