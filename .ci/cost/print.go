package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// print prints what was measured, for each cluster where not said otherwise.
func (c costs) print(w io.Writer) error {
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Fprintf(w, "%d clusters on one API server; load %s at the end\n\n", c.n, strings.Join(strings.Fields(string(load))[:min(3, len(strings.Fields(string(load))))], " "))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\twall s\tAPI requests\tof them writes\tconnections\tms CPU: itself\tAPI server\tetcd\tall\tKiB out\tin\tetcd puts\tKiB\tsignatures\tVault calls\tMiB RSS\tat most")
	n := float64(c.n)
	for _, r := range c.rows {
		per := func(v float64) string { return fmt.Sprintf("%.2f", v/n) }
		kib := func(v float64) string { return fmt.Sprintf("%.1f", v/n/1024) }
		ms := func(v float64) string { return fmt.Sprintf("%.2f", v/n*1000) }
		fmt.Fprintln(t, strings.Join([]string{r.what, fmt.Sprintf("%.1f", r.took.Seconds()), per(r.requests), per(r.writes), per(r.opened),
			ms(r.cpu), ms(r.apiserver), ms(r.etcd), ms(r.cpu + r.apiserver + r.etcd), kib(r.sent), kib(r.received), per(r.puts), kib(r.put), per(r.signed), per(r.vault),
			fmt.Sprintf("%.0f", r.rss/(1<<20)), fmt.Sprintf("%.0f", r.peak/(1<<20))}, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	q, s, f, rot := c.find(idle), c.find(restart), c.find(floorUpdate), c.find(rotate)
	minutes := q.took.Seconds() / 60
	fmt.Fprintf(w, "\nWith nothing due, a cluster and minute: %.1f API requests, %.2f ms CPU of certd, %.1f KiB in.\n", q.requests/n/minutes, q.cpu/n/minutes*1000, q.received/n/1024/minutes)
	fmt.Fprintf(w, "A restart: %.1f s, %.2f CPU s, %.1f MB read, %.0f signatures, %.0f writes.\n", s.took.Round(time.Millisecond).Seconds(), s.cpu, s.received/1e6, s.signed, s.writes)
	fmt.Fprintf(w, "A new issuer costs %.1f times the floor's CPU, its checks, its journal and Vault's signature included.\n", (rot.cpu+rot.apiserver+rot.etcd)/(f.cpu+f.apiserver+f.etcd))
	for _, r := range []row{c.find(enrol), rot, c.find(bundles), q, s} {
		fmt.Fprintf(w, "\nRequests, %s:", strings.TrimPrefix(r.what, "certd: "))
		for _, kind := range slices.Sorted(maps.Keys(r.kinds)) {
			fmt.Fprintf(w, " %s %.2f;", kind, r.kinds[kind]/n)
		}
	}
	fmt.Fprintln(w)
	return nil
}
