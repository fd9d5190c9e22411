package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// Secret says where a secret is kept; exactly one of File, Env and Credential
// is set. It never holds the secret itself.
type Secret struct {
	File       string // absolute path
	Env        string // name of an environment variable
	Credential string // name of a systemd credential, a file in $CREDENTIALS_DIRECTORY
	folder     string // $CREDENTIALS_DIRECTORY as of Load
	getenv     func(string) string
}

// String says where the secret is, as it stands in the configuration.
func (s Secret) String() string {
	switch {
	case s.File != "":
		return "{file: " + s.File + "}"
	case s.Env != "":
		return "{env: " + s.Env + "}"
	}
	return "{credential: " + s.Credential + "}"
}

// Read fetches the secret, without the line break that editors put at its end.
// It reads afresh each time, so that a replaced file counts at once. An empty
// secret is an error.
func (s Secret) Read() ([]byte, error) {
	var secret []byte
	switch {
	case s.Env != "":
		secret = []byte(s.getenv(s.Env))
		if len(secret) == 0 {
			return nil, fmt.Errorf("read secret: environment variable %s is not set", s.Env)
		}
	default:
		path, err := s.path()
		if err != nil {
			return nil, err
		}
		if secret, err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("read secret: %w", err)
		}
	}
	secret = bytes.TrimRight(secret, "\r\n")
	if len(secret) == 0 {
		return nil, fmt.Errorf("read secret %s: it is empty", s)
	}
	return secret, nil
}

func (s Secret) path() (string, error) {
	if s.Credential == "" {
		return s.File, nil
	}
	if s.folder == "" {
		return "", fmt.Errorf("read secret %s: $CREDENTIALS_DIRECTORY is not set; systemd sets it for LoadCredential=", s)
	}
	return filepath.Join(s.folder, s.Credential), nil
}

func secretField(name string) field {
	switch name {
	case "file":
		return field{name: name, kind: kindPath, doc: "A file that holds it."}
	case "env":
		return field{name: name, kind: kindID, doc: "An environment variable that holds it."}
	case "credential":
		return field{name: name, kind: kindName, doc: "A systemd credential (LoadCredential=)."}
	}
	return field{}
}
