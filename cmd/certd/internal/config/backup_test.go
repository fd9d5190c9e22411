package config

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestBackup(t *testing.T) {
	with := func(backup string) string {
		return write(t, map[string]string{"certd.yaml": strings.Replace(string(Example()), "\nserver:\n", "\n"+backup+"\nserver:\n", 1)})
	}
	if c := loaded(t, with("")); c.Backup != nil {
		t.Errorf("none is configured: %+v", c.Backup)
	}
	path := with("backup: {dir: copies}")
	if b := loaded(t, path).Backup; b == nil || b.Dir != filepath.Join(filepath.Dir(path), "copies") || b.Keep != 7 || b.Schedule.String() != "0 4 * * *" {
		t.Errorf("the defaults: %+v", b)
	}
	if b := loaded(t, with(`backup: {dir: /b, schedule: "30 1 * * 0", timeZone: Europe/Berlin, keep: 3}`)).Backup; b.Keep != 3 || b.Schedule.String() != "30 1 * * 0" || b.Schedule.Zone().String() != "Europe/Berlin" {
		t.Errorf("%+v", b)
	}
	if c := loaded(t, with("backup: {dir: /var/lib/certd}")); !strings.Contains(c.Warnings.Error(), "backup.dir: is stateDir") {
		t.Errorf("beside the journal: %s", c.Warnings.Error())
	}
	for text, want := range map[string]string{
		"backup: {}": "backup.dir: is missing",
		`backup: {dir: /b, schedule: "0 0 31 2 *"}`: "never fires",
		"backup: {dir: /b, keep: 0}":                "from 1 to 1000",
	} {
		if _, problems := Load(with(text), options()); !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %s", text, problems.Error())
		}
	}
}
