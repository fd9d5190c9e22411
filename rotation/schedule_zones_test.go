package rotation

import (
	"archive/zip"
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"certd.internal/.ci/scoreboard"
)

// ianaZones returns a name of every zone in the tables that come with Go, one of those
// that are alike, in an order by chance that is always the same; and how many names.
func ianaZones(t testing.TB) (zones []string, names int) {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	archive, err := zip.OpenReader(filepath.Join(strings.TrimSpace(string(root)), "lib", "time", "zoneinfo.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	seen := map[[sha256.Size]byte]bool{}
	for _, f := range archive.File {
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		table, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names++
		if sum := sha256.Sum256(table); !seen[sum] {
			seen[sum] = true
			zones = append(zones, f.Name)
		}
	}
	if names < 500 {
		t.Fatalf("only %d zones are there", names)
	}
	slices.Sort(zones)
	rand.New(rand.NewPCG(10, 1)).Shuffle(len(zones), func(i, j int) { zones[i], zones[j] = zones[j], zones[i] })
	return zones, names
}

// settings returns when a zone's clocks are set in [from, to): by looking at them twice a
// day, and by halves in between.
func settings(zone *time.Location, from, to time.Time) (all []time.Time) {
	offset := func(t time.Time) int { _, o := t.In(zone).Zone(); return o }
	for t := from; t.Before(to); t = t.Add(12 * time.Hour) {
		low, high := t, t.Add(12*time.Hour)
		if offset(low) == offset(high) {
			continue
		}
		for high.Sub(low) > time.Second {
			if middle := low.Add(high.Sub(low) / 2).Truncate(time.Second); offset(middle) == offset(low) {
				low = middle
			} else {
				high = middle
			}
		}
		all = append(all, high)
	}
	return all
}

// manySpecs are 500 expressions: those that are hard, and others by chance.
func manySpecs() []string {
	all := cronSpecs()
	random := rand.New(rand.NewPCG(10, 2))
	number := func(low, high int) string { return strconv.Itoa(low + random.IntN(high-low+1)) }
	field := func(low, high int) string {
		switch random.IntN(6) {
		case 0:
			return "*"
		case 1:
			return "*/" + strconv.Itoa(1+random.IntN(high))
		case 2:
			a := low + random.IntN(high-low+1)
			return fmt.Sprintf("%d-%s/%d", a, number(a, high), 1+random.IntN(5))
		case 3:
			return number(low, high) + "," + number(low, high) + "," + number(low, high)
		}
		return number(low, high)
	}
	for len(all) < 500 {
		minute, hour, dom, month, dow := field(0, 59), field(0, 23), "*", "*", "*"
		if random.IntN(4) > 0 { // most are for few times of the day
			minute, hour = number(0, 59), number(0, 23)
		}
		switch random.IntN(8) {
		case 0:
			dom = field(1, 28)
		case 1:
			dow = field(0, 6)
		case 2:
			dow = []string{"MON-FRI", "SAT,SUN", "sun", "TUE-THU/2"}[random.IntN(4)]
		case 3:
			month, dom = []string{"MAR,OCT", "2-11", "*/2", "jan-dec/3"}[random.IntN(4)], field(1, 31)
		}
		spec := strings.Join([]string{minute, hour, dom, month, dow}, " ")
		if _, err := ParseSchedule(spec, nil); err == nil { // some never fire
			all = append(all, spec)
		}
	}
	return all
}

// plainCron reads an expression anew, from its text alone: which minutes, hours, days,
// months and days of the week it names.
func plainCron(spec string) (fields [5][60]bool) {
	switch spec {
	case "@hourly":
		spec = "0 * * * *"
	case "@daily":
		spec = "0 0 * * *"
	case "@weekly":
		spec = "0 0 * * 0"
	case "@monthly":
		spec = "0 0 1 * *"
	case "@yearly":
		spec = "0 0 1 1 *"
	}
	names := strings.NewReplacer("SUN", "0", "MON", "1", "TUE", "2", "WED", "3", "THU", "4", "FRI", "5", "SAT", "6",
		"JAN", "1", "FEB", "2", "MAR", "3", "APR", "4", "MAY", "5", "JUN", "6", "JUL", "7", "AUG", "8", "SEP", "9", "OCT", "10", "NOV", "11", "DEC", "12")
	ends := [5][2]int{{0, 59}, {0, 23}, {1, 31}, {1, 12}, {0, 6}}
	for i, text := range strings.Fields(names.Replace(strings.ToUpper(spec))) {
		for element := range strings.SplitSeq(text, ",") {
			span, step, stepped := strings.Cut(element, "/")
			low, high := ends[i][0], ends[i][1]
			if span != "*" {
				a, b, ranged := strings.Cut(span, "-")
				low, _ = strconv.Atoi(a)
				switch {
				case ranged:
					high, _ = strconv.Atoi(b)
				case !stepped:
					high = low
				}
			}
			by := 1
			if stepped {
				by, _ = strconv.Atoi(step)
			}
			for n := low; n <= high; n += by {
				fields[i][n] = true
			}
		}
	}
	return fields
}

// reading is what a clock shows.
type reading struct{ minute, hour, day, month, weekday int }

func (r reading) matches(f *[5][60]bool) bool {
	return f[0][r.minute] && f[1][r.hour] && f[2][r.day] && f[3][r.month] && f[4][r.weekday]
}

// Every zone × every setting of its clocks until 2046 × 500 expressions: exactly one firing
// for each time that is meant, by a walk through every minute, also where the clock
// skips it or shows it twice; and a certificate with the least lifetime that is accepted is
// renewed at a firing, with another one to spare, before it must be. (Line R10.)
func TestEveryZoneAndSetting(t *testing.T) {
	run := scoreboard.Start(t, "R10", 120)
	zones, names := ianaZones(t)
	const perZone = 100 // Gaza sets its clocks four times in most years
	run.Limit(uint64(len(zones) * perZone))
	specs := manySpecs()
	fields := make([][5][60]bool, len(specs))
	for i, spec := range specs {
		fields[i] = plainCron(spec)
	}
	from, to := rfc3339(t, "2026-01-01T00:00:00Z"), rfc3339(t, "2047-01-01T00:00:00Z")
	byZone := map[string][]time.Time{}
	for seed := range run.Seeds() {
		name := zones[seed%uint64(len(zones))]
		zone := location(t, name)
		at, known := byZone[name]
		if !known {
			at = settings(zone, from, to)
			if len(at) >= perZone {
				t.Fatalf("%s sets its clocks %d times", name, len(at))
			}
			byZone[name] = at
		}
		nth := int(seed) / len(zones)
		var middle time.Time
		switch {
		case nth < len(at):
			middle = at[nth]
			run.Add("settings of clocks", 1)
		case nth == len(at): // and where nothing happens
			middle = from.Add(time.Duration(rand.New(rand.NewPCG(seed, 3)).Int64N(int64(to.Sub(from)))))
			run.Add("other stretches", 1)
		default:
			continue
		}
		if nth == 0 || len(at) == 0 {
			run.Add("distinct zones", 1)
		}
		around(t, run, seed, zone, middle, specs, fields)
		if t.Failed() && !run.Long() {
			break
		}
	}
	run.Add("wrong", 0)
	t.Logf("%d zones, of which %d differ", names, len(zones))
}

// around holds all expressions against a walk through every minute around a time.
func around(t *testing.T, run *scoreboard.Run, seed uint64, zone *time.Location, middle time.Time, specs []string, fields [][5][60]bool) {
	from := middle.Add(-36 * time.Hour).Truncate(time.Minute)
	to := middle.Add(36 * time.Hour)
	type shown struct {
		at time.Time
		reading
	}
	var all []shown
	for _, m := range clockMinutes(zone, from, to) {
		for _, n := range m.reached {
			all = append(all, shown{m.at, reading{n.Minute(), n.Hour(), n.Day(), int(n.Month()), int(n.Weekday())}})
		}
	}
	random := rand.New(rand.NewPCG(seed, 4))
	for i, spec := range specs {
		s, err := ParseSchedule(spec, zone)
		if err != nil {
			t.Fatal(err)
		}
		at, began := from.Add(-1), time.Time{}
		next := func() {
			if run.Long() {
				began = time.Now()
			}
			at = s.Next(at)
			if run.Long() {
				run.Most("longest Next in µs", float64(time.Since(began).Microseconds()))
			}
		}
		next()
		var last time.Time
		wrong := func(want string) {
			run.Add("wrong", 1)
			t.Errorf("seed %d: %q in %s around %s: it fires at %s, want %s", seed, spec, zone, middle.UTC(), at, want)
		}
		firings := uint64(0)
		for _, m := range all {
			if !m.matches(&fields[i]) || m.at.Equal(last) { // several readings in one gap: one firing
				continue
			}
			if last = m.at; !at.Equal(m.at) {
				wrong(m.at.String())
				break
			}
			firings++
			next()
		}
		if at.Before(to) && !t.Failed() {
			wrong("none before " + to.String())
		}
		run.Add("firings", firings)
		run.Add("expressions", 1)
	}
	for range 3 {
		spec := specs[random.IntN(len(specs))]
		s, err := ParseSchedule(spec, zone)
		if err != nil {
			t.Fatal(err)
		}
		if problem := leastLifetime(random, s, middle); problem != "" {
			run.Add("wrong", 1)
			t.Errorf("seed %d: %q in %s around %s: %s", seed, spec, zone, middle.UTC(), problem)
		}
		run.Add("certificates", 1)
	}
}

// leastLifetime signs a certificate some time before a setting of the clocks, with the
// shortest lifetime that the schedule allows, and says what is wrong with its dates.
func leastLifetime(random *rand.Rand, s Schedule, middle time.Time) string {
	p := RenewalPolicy{Schedule: s, RenewBefore: time.Duration(1+random.IntN(200)) * time.Hour, Backdate: 10 * time.Minute,
		Spread: time.Duration(random.IntN(2)) * 30 * time.Minute}
	from := middle.Add(-200 * 24 * time.Hour)
	_, p.Lifetime = p.checkLifetimes(from, "issuer.lifetime", "issuer.renewBefore", "issuer.schedule", 0, "")
	if problems, _ := p.checkLifetimes(from, "issuer.lifetime", "issuer.renewBefore", "issuer.schedule", 0, ""); len(problems) > 0 {
		return fmt.Sprintf("the lifetime that it names is refused: %+v", problems)
	}
	if p.Spread == 0 {
		// The last second of a lifetime is not lived (pki.Validity). Where firings are put
		// off, that is by less than what is reckoned with.
		p.Lifetime += time.Second
	}
	// So that the setting of the clocks lies between signing and the floor.
	window := p.Lifetime - p.Backdate - p.RenewBefore
	signed := middle.Add(-time.Duration(random.Int64N(int64(window)))).Truncate(time.Second)
	if signed.Before(from) {
		signed = from
	}
	notAfter := signed.Add(-p.Backdate).Add(p.Lifetime).Add(-time.Second)
	const cluster = "east"
	d := p.Dates(cluster, signed, notAfter, 0)
	must := notAfter.Add(-p.RenewBefore)
	// Every firing after signing, one by one, as Next says them.
	var firings []time.Time
	for at := s.Next(signed.Add(-p.Spread - time.Second)); !at.IsZero() && !at.After(must); at = s.Next(at) {
		if put := p.spread(cluster, at); put.After(signed) && !put.After(must) {
			firings = append(firings, put)
		}
		if len(firings) > 3 {
			firings = slices.Delete(firings, 1, 2) // the first and the last two are enough
		}
	}
	switch {
	case !d.MustRenewBy.Equal(must):
		return fmt.Sprintf("it must be renewed by %s, want %s", d.MustRenewBy, must)
	case len(firings) < 2:
		return fmt.Sprintf("%d firings between signing, %s, and %s: a missed one cannot be made good", len(firings), signed, must)
	case d.NextRun.After(must) || d.RenewAt.After(must):
		return fmt.Sprintf("it is renewed at %s, due at %s, after %s", d.NextRun, d.RenewAt, must)
	case !d.RenewAt.Equal(firings[len(firings)-2]):
		return fmt.Sprintf("it is due at %s, the last firing but one until %s is %s", d.RenewAt, must, firings[len(firings)-2])
	case cmp.Compare(d.NextRun.Unix(), firings[0].Unix()) < 0:
		return fmt.Sprintf("it is renewed at %s, before the first firing, %s", d.NextRun, firings[0])
	}
	return ""
}
