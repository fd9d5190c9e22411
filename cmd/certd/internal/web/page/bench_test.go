package page

import (
	"fmt"
	"testing"
)

// The first page and the table of 500 clusters with 1,500 webhooks.
func BenchmarkDraw(b *testing.B) {
	var names []string
	for i := range 500 {
		names = append(names, fmt.Sprintf("edge-%03d", i))
	}
	p := pageOf(b, healthy(names...))
	for name, path := range map[string]string{"front": "/", "table": "/clusters", "cluster": "/clusters/edge-007"} {
		b.Run(name, func(b *testing.B) {
			size := 0
			for b.Loop() {
				status, _, html := get(p, path)
				if status != 200 {
					b.Fatal(status)
				}
				size = len(html)
			}
			b.ReportMetric(float64(size)/1000, "kB/page")
		})
	}
}
