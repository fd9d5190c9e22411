package simulate

import (
	"fmt"
	"html/template"
	"io"
	"time"

	"certd.internal/rotation"
)

// A drawing has a row for each cluster: a line for each renewal, a bar for each finding.
const (
	drawingWidth  = 1200
	drawingLead   = 160 // for names
	drawingRow    = 36
	drawingHeader = 48
)

var drawing = template.Must(template.New("life").Parse(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{.Width}} {{.Height}}" font-family="sans-serif" font-size="12">
<title>{{.Title}}</title>
<rect width="100%" height="100%" fill="#fff"/>
<text x="8" y="18" font-size="14">{{.Title}}</text>
{{range .Years}}<line x1="{{.X}}" y1="28" x2="{{.X}}" y2="{{$.Height}}" stroke="#ddd"/><text x="{{.X}}" y="42" fill="#555">{{.Name}}</text>
{{end}}{{range .Outages}}<rect x="{{.X}}" y="28" width="{{.W}}" height="{{$.Height}}" fill="#ccc" fill-opacity="0.6"><title>{{.Name}}</title></rect>
{{end}}{{range .Rows}}<text x="8" y="{{.Y}}" dominant-baseline="hanging">{{.Name}}</text>
{{range .Bars}}<rect x="{{.X}}" y="{{.Y}}" width="{{.W}}" height="6" fill="{{.Fill}}"><title>{{.Name}}</title></rect>
{{end}}{{range .Ticks}}<line x1="{{.X}}" y1="{{.Y}}" x2="{{.X}}" y2="{{.Y2}}" stroke="{{.Fill}}"><title>{{.Name}}</title></line>
{{end}}{{end}}</svg>
`))

type drawn struct {
	X, Y, Y2, W float64
	Name, Fill  string
}

type drawnRow struct {
	Name        string
	Y           float64
	Ticks, Bars []drawn
}

// SVG draws a life.
func SVG(w io.Writer, l Life) error {
	x := func(t time.Time) float64 {
		return drawingLead + (drawingWidth-drawingLead-8)*float64(t.Sub(l.From))/float64(l.Until.Sub(l.From))
	}
	doc := struct {
		Title         string
		Width, Height int
		Years         []drawn
		Outages       []drawn
		Rows          []drawnRow
	}{Title: fmt.Sprintf("%s, simulated from %s to %s: %s", l.Fleet, l.From.Format(time.DateOnly), l.Until.Format(time.DateOnly), held(l)),
		Width: drawingWidth, Height: drawingHeader + drawingRow*(len(l.Clusters)+1)}
	for year := l.From.Year() + 1; ; year++ {
		at := time.Date(year, time.January, 1, 0, 0, 0, 0, time.UTC)
		if at.After(l.Until) {
			break
		}
		doc.Years = append(doc.Years, drawn{X: x(at), Name: fmt.Sprint(year)})
	}
	for _, o := range l.Outages {
		doc.Outages = append(doc.Outages, drawn{X: x(o.From), W: max(1, x(o.To)-x(o.From)), Name: "without " + o.What})
	}
	rows := map[string]int{"": 0}
	doc.Rows = append(doc.Rows, drawnRow{Name: "fleet", Y: drawingHeader + 4})
	for i, c := range l.Clusters {
		rows[c.Name] = i + 1
		doc.Rows = append(doc.Rows, drawnRow{Name: c.Name, Y: float64(drawingHeader + 4 + drawingRow*(i+1))})
	}
	for _, e := range l.Events {
		row, fill, from := &doc.Rows[rows[e.Cluster]], "#2563eb", 0.0
		switch e.Step {
		case rotation.StepIssuer, rotation.StepTrustRenew:
		case rotation.StepWebhook:
			fill, from = "#7c3aed", 10
		case rotation.StepWebhookCA:
			fill, from = "#0d9488", 10
		default:
			continue
		}
		if e.Error == "" {
			row.Ticks = append(row.Ticks, drawn{X: x(e.At), Y: row.Y + from, Y2: row.Y + from + 9, Fill: fill, Name: fmt.Sprintf("%s %s: %s", e.At.Format(time.DateTime), e.Step, e.Why)})
		}
	}
	for _, f := range l.Findings {
		to, fill := f.To, "#d97706"
		if to.IsZero() {
			to = l.Until
		}
		if f.Worst == rotation.StateCritical {
			fill = "#dc2626"
		}
		row := &doc.Rows[rows[f.Cluster]]
		row.Bars = append(row.Bars, drawn{X: x(f.From), Y: row.Y + 22, W: max(1, x(to)-x(f.From)), Fill: fill, Name: f.Finding + ": " + f.Message})
	}
	return drawing.Execute(w, doc)
}

func held(l Life) string {
	if len(l.Violations) == 0 {
		return "every promise held"
	}
	return fmt.Sprintf("%d promises did not hold", len(l.Violations))
}
