package page

import (
	"fmt"
	"unicode"
	"unicode/utf8"

	"certd.internal/cmd/certd/internal/words"
	"certd.internal/rotation"
)

// trust is about the trust anchor, and its change where one is under way.
type trust struct {
	Anchors []anchor
	Bundle  string
	Change  *change
}

type anchor struct {
	Role, ID, Subject string
	Until             string
	Key               string
}

// A change is one of the trust anchor, as a list of stages.
type change struct {
	Head       string
	State      string
	Since      *stamp
	By, Reason string
	Without    []link
	Stages     []stage
	Waiting    []string
	More       int
	SafeToStop bool
	Commands   []string
}

type stage struct {
	Number     int
	Name, What string
	State      string // done, now, later or left out
	Count      string
	Share      *share
}

// A share is a part of a whole, for a bar.
type share struct{ Part, Of int }

// Width is the part in thousandths.
func (s share) Width() int {
	if s.Of == 0 {
		return 0
	}
	return s.Part * 1000 / s.Of
}

func (d drawing) trust() (t trust) {
	if a := d.st.Trust.Active; a != nil {
		t.Anchors = append(t.Anchors, d.anchor("active", *a))
	}
	for _, a := range d.st.Trust.Others {
		t.Anchors = append(t.Anchors, d.anchor("trusted", a))
	}
	current, known, trusting, total := 0, 0, 0, 0
	for _, c := range d.st.Clusters {
		if c.Bundle != nil {
			known++
			if c.Bundle.Current {
				current++
			}
		}
		if p := c.Proxies; p != nil {
			trusting, total = trusting+p.Current, total+p.Total
		}
	}
	if known > 0 {
		t.Bundle = fmt.Sprintf("The bundle is current in %d of %s", current, words.Count(len(d.st.Clusters), "cluster"))
		if total > 0 {
			t.Bundle += fmt.Sprintf(", and trusted by %s of %s proxies", words.Thousands(trusting), words.Thousands(total))
		}
		t.Bundle += "."
	}
	if r := d.st.Trust.Rotation; r != nil && r.Phase != "idle" {
		t.Change = d.change(*r)
	}
	return t
}

func (d drawing) anchor(role string, a rotation.AnchorStatus) anchor {
	v := anchor{Role: role, ID: d.clean(a.ID), Subject: d.clean(a.Subject)}
	v.Until = "until " + a.NotAfter.In(d.Zone).Format("2 Jan 2006") + " (" + words.Coarse(a.NotAfter.Sub(d.Now)) + ")"
	if !a.NotAfter.After(d.Now) {
		v.Until = "ended " + d.Day(a.NotAfter)
	}
	switch k := a.Key; {
	case k.Name == "":
		v.Key = "its key is not in certd's hands: it came with a mesh"
	case k.Backend == "file":
		v.Key = "its key is in an encrypted file"
	case k.Exportable:
		v.Key = "its key is in " + d.clean(k.Backend) + ", and exportable"
	default:
		v.Key = "its key is in " + d.clean(k.Backend) + ", not exportable"
	}
	if a.Key.Imported {
		v.Key += ", imported"
	}
	return v
}

// what each stage is for.
func stageGoal(name string) string {
	switch name {
	case "create":
		return "the new key and its certificate are made"
	case "bridge":
		return "issuers are signed under both anchors"
	case "spread":
		return "bundles turn to the new anchor, and linkerd-identity with them"
	case "restart":
		return "pods that hold the old anchor are created anew"
	case "finish":
		return "issuers are under the new anchor alone"
	}
	return "nothing trusts or uses the old anchor"
}

// capital has a sentence begin as one.
func capital(text string) string {
	first, n := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(first)) + text[n:]
}

func (d drawing) change(r rotation.RotationStatus) *change {
	c := &change{Head: capital(d.clean(words.ChangeHead(r))), State: "info", Since: d.stampOf(r.StageAt), By: d.clean(r.Actor), Reason: d.clean(r.Reason), SafeToStop: r.SafeToStop}
	switch {
	case r.Compromised:
		c.State = critical
	case r.Held || len(r.Without) > 0 || r.Approval != nil && r.Approval.Since != nil:
		c.State = warning
	}
	for _, name := range r.Without {
		c.Without = append(c.Without, d.link(name))
	}
	names := [...]string{"create", "bridge", "spread", "restart", "finish", "retire"}
	for i, name := range names {
		s := stage{Number: i + 1, Name: name, What: stageGoal(name), State: "later"}
		switch {
		case s.Number < r.Number && r.Compromised && (name == "bridge" || name == "spread"):
			s.State = "left out"
		case s.Number < r.Number:
			s.State = "done"
		case s.Number == r.Number:
			s.State = "now"
		}
		if s.State == "done" || s.State == "now" {
			s.Count, s.Share = d.through(name, r)
		}
		c.Stages = append(c.Stages, s)
	}
	for i, w := range r.WaitingFor {
		if i == mostWaiting {
			c.More = len(r.WaitingFor) - i
			break
		}
		c.Waiting = append(c.Waiting, d.clean(w))
	}
	c.Commands = []string{d.command("certd trust status")}
	switch {
	case r.Held:
		c.Commands = append(c.Commands, d.command("certd trust resume")+" # go on")
	case !r.Compromised:
		c.Commands = append(c.Commands, d.command("certd trust hold")+" # stay where it is", d.command("certd trust rollback")+" # turn around")
	}
	if a := r.Approval; a != nil && a.By == "" {
		c.Commands = append(c.Commands, d.command("certd trust approve "+d.clean(a.Of))+" # by a second person")
	}
	return c
}

// through counts who has what a stage is for, by what is in the clusters.
func (d drawing) through(name string, r rotation.RotationStatus) (string, *share) {
	all := share{Of: len(d.st.Clusters)}
	what := "clusters"
	switch name {
	case "create":
		return d.clean(r.To), nil
	case "restart":
		what, all = "proxies", share{}
		for _, c := range d.st.Clusters {
			if p := c.Proxies; p != nil {
				all.Part, all.Of = all.Part+p.Current, all.Of+p.Total
			}
		}
		if all.Of == 0 {
			return "no proxies were counted", nil
		}
	default:
		for _, c := range d.st.Clusters {
			if through(c, name, r) {
				all.Part++
			}
		}
	}
	return fmt.Sprintf("%s of %s %s", words.Thousands(all.Part), words.Thousands(all.Of), what), &all
}

// through says whether a cluster has what a stage is for.
func through(c rotation.ClusterStatus, name string, r rotation.RotationStatus) bool {
	var first, second string
	if c.Issuer != nil && c.Issuer.Delivered != nil {
		first, second = c.Issuer.Delivered.Anchor, c.Issuer.Delivered.Second
	}
	alone := first == r.To && second == ""
	trusts := func(id string) bool {
		if c.Bundle == nil {
			return false
		}
		for _, a := range c.Bundle.Anchors {
			if a.ID == id && a.Foreign == "" {
				return true
			}
		}
		return false
	}
	// What clusters came with has no name of certd's, and neither has from then.
	turned := trusts(r.To) && !trusts(r.From)
	switch name {
	case "bridge":
		return alone || second != "" && (first == r.To || second == r.To)
	case "spread":
		return turned
	case "finish":
		return alone
	}
	return alone && turned
}
