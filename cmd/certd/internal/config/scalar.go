package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"certd.internal/rotation"
)

// check looks at a scalar by itself, fills in what it stands for, and returns
// what is wrong with it, or "".
func (n *node) check() string {
	switch n.kind {
	case kindID:
		if n.text == "" {
			return "is empty"
		}
	case kindName:
		return checkName(n.text)
	case kindDomain:
		for label := range strings.SplitSeq(n.text, ".") {
			if checkName(label) != "" {
				return fmt.Sprintf("%.80q is not a domain name of a-z, 0-9, - and dots", n.text)
			}
		}
		if len(n.text) > 253 {
			return fmt.Sprintf("%.80q… is longer than 253 bytes, the most that a domain name has", n.text)
		}
	case kindPath:
		if n.text == "" {
			return "is empty"
		}
		if strings.ContainsAny(n.text, "\n\r") {
			return "holds a line break"
		}
	case kindURL:
		u, err := url.Parse(n.text)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
			return fmt.Sprintf("%.80q is not an http or https address, such as https://vault.example:8200", n.text)
		case u.User != nil:
			return "holds a user name or password; secrets are not written here"
		}
	case kindListen:
		return checkListen(n.text)
	case kindMount:
		trimmed := strings.Trim(n.text, "/")
		if trimmed == "" || strings.ContainsAny(trimmed, " ?#%\n") || strings.Contains("/"+trimmed+"/", "/../") {
			return fmt.Sprintf("%.80q is not a mount path", n.text)
		}
		n.text = trimmed
	case kindWord:
		switch {
		case slices.Contains(n.words, n.text):
		case len(n.words) > 20:
			return fmt.Sprintf("%.80q is none of the %d words that it may be%s; `certd config schema` lists them", n.text, len(n.words), didYouMean(n.text, n.words))
		default:
			return fmt.Sprintf("%.80q is not one of %s%s", n.text, strings.Join(n.words, ", "), didYouMean(n.text, n.words))
		}
	case kindDuration:
		d, err := ParseDuration(n.text)
		limit := n.max
		if limit == 0 {
			limit = 36500 * day
		}
		switch {
		case err != nil:
			return fmt.Sprintf("%.40q %s", n.text, err)
		case d < n.min:
			return fmt.Sprintf("%s is less than %s", n.text, rotation.FormatDuration(n.min))
		case d > limit:
			return fmt.Sprintf("%s is more than %s", n.text, rotation.FormatDuration(limit))
		}
		n.duration = d
	case kindCount:
		count, err := strconv.Atoi(n.text)
		if err != nil || count < 1 || count > n.most || strings.HasPrefix(n.text, "0") || strings.HasPrefix(n.text, "+") {
			return fmt.Sprintf("%.40s is not a whole number from 1 to %d", n.text, n.most)
		}
		n.count = count
	case kindZone:
		if n.text == "" || n.text == "Local" {
			return `name a time zone, such as "Europe/Berlin" or "UTC"`
		}
		if _, err := time.LoadLocation(n.text); err != nil {
			return fmt.Sprintf("%.80q is not a time zone%s", n.text, didYouMean(n.text, commonZones()))
		}
	case kindSchedule:
		if _, err := rotation.ParseSchedule(n.text, time.UTC); err != nil {
			return err.Error()
		}
	case kindDate:
		if _, err := time.Parse(time.DateOnly, n.text); err != nil {
			return fmt.Sprintf("%.40q is not a day, such as 2026-12-18", n.text)
		}
	case kindSelector:
		if strings.TrimSpace(n.text) == "" {
			return "is empty, which would select nothing or everything; to say what holds everywhere use defaults"
		}
		if _, err := labels.Parse(n.text); err != nil {
			return fmt.Sprintf("%.80q is not a label selector, such as \"tier=prod,region in (eu,us)\": %s", n.text, err)
		}
	}
	return ""
}

func checkName(s string) string {
	valid := s != "" && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-'
	for _, c := range s {
		valid = valid && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if valid {
		return ""
	}
	return fmt.Sprintf("%.80q is not a name of a-z, 0-9 and - (inside), up to 63 of them", s)
}

// checkListen looks at an address to listen on. An empty host is every address
// that this host has, port 0 any that is free.
func checkListen(s string) string {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Sprintf("%.80q is not HOST:PORT, such as 127.0.0.1:9843", s)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Sprintf("%.20q is not a port, a number up to 65535", port)
	}
	if host == "" || net.ParseIP(host) != nil {
		return ""
	}
	if complaint := (&node{field: field{kind: kindDomain}, text: host}).check(); complaint != "" {
		return fmt.Sprintf("%.80q is neither an IP address nor a host's name", host)
	}
	return ""
}

// loopback says whether only programs on this host reach an address.
func loopback(listen string) bool {
	host, _, _ := net.SplitHostPort(listen)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// commonZones are what a misspelt zone is compared to; the database itself
// cannot be listed where it is built in.
func commonZones() []string {
	return strings.Fields(`UTC Africa/Cairo Africa/Casablanca Africa/Johannesburg Africa/Lagos Africa/Nairobi
		America/Anchorage America/Argentina/Buenos_Aires America/Bogota America/Chicago America/Denver America/Halifax
		America/Lima America/Los_Angeles America/Mexico_City America/New_York America/Phoenix America/Santiago
		America/Sao_Paulo America/Toronto America/Vancouver Asia/Bangkok Asia/Dhaka Asia/Dubai Asia/Hong_Kong
		Asia/Jakarta Asia/Jerusalem Asia/Karachi Asia/Kathmandu Asia/Kolkata Asia/Kuala_Lumpur Asia/Manila Asia/Riyadh
		Asia/Seoul Asia/Shanghai Asia/Singapore Asia/Taipei Asia/Tehran Asia/Tokyo Australia/Adelaide Australia/Brisbane
		Australia/Melbourne Australia/Perth Australia/Sydney Europe/Amsterdam Europe/Athens Europe/Belgrade
		Europe/Berlin Europe/Brussels Europe/Bucharest Europe/Budapest Europe/Copenhagen Europe/Dublin Europe/Helsinki
		Europe/Istanbul Europe/Kyiv Europe/Lisbon Europe/London Europe/Luxembourg Europe/Madrid Europe/Moscow
		Europe/Oslo Europe/Paris Europe/Prague Europe/Riga Europe/Rome Europe/Sofia Europe/Stockholm Europe/Tallinn
		Europe/Vienna Europe/Vilnius Europe/Warsaw Europe/Zurich Pacific/Auckland Pacific/Honolulu`)
}
