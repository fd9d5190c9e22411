package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
)

// watchEvery is how often --watch looks.
const watchEvery = 2 * time.Second

func (a *App) trustRotateCommand() *cobra.Command {
	var reason string
	var dryRun, yes, watch, compromised, outsiders, manual bool
	cmd := &cobra.Command{
		Use: "rotate", Short: "Change the trust anchor for a new one", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Makes a new trust anchor in the key backend and has the fleet change to it, so that every workload is restarted once
and none refuses another:

  1 create    the new key and its certificate
  2 bridge    every cluster's issuer gets a second certificate, under the new anchor: one key, one name. Who trusts
              either anchor accepts its leaves. Then the last leaf from before must end
  3 spread    each cluster's bundle turns from the old anchor to the new, and linkerd-identity with it
  4 restart   pods that hold the old anchor are created anew. certd restarts Linkerd's control plane; for the others
              certd status and certd trust status name what to restart
  5 finish    issuers are under the new anchor alone: in one cluster first, then everywhere
  6 retire    nothing trusts or uses the old anchor; its key stays in the key backend until a person destroys it.
              Where the configuration has approvals.retire: 2, this waits for somebody else than you: certd trust approve

Where clusters were taken over (certd adopt) whose trust anchor's key certd does not have, these are brought to the
fleet's anchor first, each from its own, and no new one is made if the fleet has one.

Every cluster must have come through a stage before the next begins. Pods that are found to lack the new anchor after
that bring the second certificate back by themselves. Issuers are renewed on their schedule all the while.

With --compromised none of that is waited for: whoever has the key of a trust anchor, or of an issuer under it, can
deceive each pod that trusts the anchor, until that pod is restarted. No bundle holds both anchors at any time; the new
one is published at once, linkerd-identity is restarted as soon as it can know it, and workloads right after. Until all
are, those that were restarted and those that were not refuse each other. What that means for each cluster is shown
before it is confirmed. A change under way is turned into this one.

What stands against beginning is told before anything is made. The key is created with $VAULT_TOKEN, or the token that
vault login left, as by certd init.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if manual && compromised {
				return usage("trust rotate: --manual waits for you after each stage, and --compromised for nothing: one of the two")
			}
			return a.beginChange(cmd.Context(), api.ChangeRequest{Order: api.ChangeBegin, Reason: reason, Compromised: compromised, Outsiders: outsiders, Manual: manual}, dryRun, yes, watch)
		},
	}
	f := cmd.Flags()
	f.StringVar(&reason, "reason", "", "why, for the history")
	f.BoolVar(&dryRun, "dry-run", false, "say what would be done, and what stands against it")
	f.BoolVar(&yes, "yes", false, "do not ask")
	f.BoolVar(&watch, "watch", false, "stay and tell of each stage, until it has ended")
	f.BoolVar(&compromised, "compromised", false, "the anchor's key, or an issuer's, is in the hands of others: away from it at once, at whatever cost")
	f.BoolVar(&outsiders, "outsiders", false, "whoever talks to the fleet's meshes without certd looking after them has been seen to")
	f.BoolVar(&manual, "manual", false, "wait after each stage for certd trust advance")
	a.tokenFlag(cmd)
	return cmd
}

func (a *App) beginChange(ctx context.Context, req api.ChangeRequest, dryRun, yes, watch bool) error {
	socket, err := a.Socket(a.configPath)
	if err != nil {
		return err
	}
	daemon := api.NewClient(socket)
	req.DryRun = true
	plan, err := daemon.ChangeTrust(ctx, req)
	if err != nil {
		return a.needsDaemon(err)
	}
	s := a.style()
	if !req.Compromised {
		plan.Steps = append([]string{"every cluster answers, is as it should be, and so are its meshed pods"}, plan.Steps...)
	}
	lines := s.stepLines("Checked", plan.Steps)
	if req.Compromised {
		lines = append(lines, "", "What it costs")
		for _, c := range plan.Costs {
			lines = append(lines, s.wrap("  "+s.mark(markWarning)+" ", "    ", s.clean(c))...)
		}
	}
	if plan.Anchor != nil {
		head := "What will be made"
		if !plan.Anchor.NotAfter.IsZero() { // it is there
			head = "What it leads to"
		}
		lines = append(append(lines, "", head), s.anchorLines(*plan.Anchor)...)
	}
	if dryRun {
		a.tell(lines...)
		a.aside("Nothing was changed.")
		return nil
	}
	a.aside(lines...)
	if !yes {
		st, err := working(daemon.Status(ctx))
		if err != nil {
			return err
		}
		question := "To change the trust anchor, type the fleet's name."
		if req.Compromised {
			question = "Workloads will refuse each other until all are restarted. To turn away from the trust anchor at once, type the fleet's name."
		}
		if err := a.confirm(ctx, question, st.Fleet); err != nil {
			return err
		}
	}
	req.DryRun = false
	if req.Token, err = a.creationToken(); err != nil {
		return err
	}
	reply, err := daemon.ChangeTrust(ctx, req)
	switch {
	case errors.Is(err, context.Canceled):
		return interrupted("the daemon has the request and goes on; certd trust status shows what came of it")
	case err != nil:
		return a.needsDaemon(err)
	}
	a.tell(s.wrap(s.mark(markOK)+" ", "  ", fmt.Sprintf("the trust anchor is being changed from %s to %s; sha256 %s", s.clean(sideName(reply.Rotation.From)), s.clean(sideName(reply.Rotation.To)), s.clean(reply.Anchor.SHA256)))...)
	if watch {
		return a.watchChange(ctx, daemon)
	}
	a.aside(s.next("certd trust status")...)
	if req.Compromised {
		a.aside(a.undo("none; the anchor that counts as compromised is not trusted again")...)
		return nil
	}
	a.aside(a.undo("certd trust rollback, at any time before it has ended")...)
	return nil
}

// watchChange tells of each stage until the change has ended.
func (a *App) watchChange(ctx context.Context, daemon *api.Client) error {
	last := ""
	for {
		st, err := working(daemon.Status(ctx))
		if err != nil {
			return a.needsDaemon(err)
		}
		s := a.style()
		lines := s.changeLines(st)
		if text := strings.Join(lines, "\n"); text != last {
			last = text
			a.tell(append([]string{s.now.In(s.zone).Format("15:04:05")}, lines...)...)
		}
		if st.Trust.Rotation == nil || st.Trust.Rotation.Phase == "idle" {
			return nil
		}
		select {
		case <-ctx.Done():
			return interrupted("the change goes on; certd trust status shows it")
		case <-time.After(watchEvery):
		}
	}
}

// TrustReport is the document behind `certd trust status`.
type TrustReport struct {
	APIVersion string               `json:"apiVersion"`
	Kind       string               `json:"kind"` // TrustStatus
	Fleet      string               `json:"fleet"`
	ObservedAt time.Time            `json:"observedAt"`
	Source     string               `json:"source"`
	Trust      rotation.TrustStatus `json:"trust"`
	Clusters   []TrustCluster       `json:"clusters"`
}

// TrustCluster is what one cluster trusts and uses.
type TrustCluster struct {
	Name    string                  `json:"name"`
	State   rotation.State          `json:"state"`
	Bundle  *rotation.BundleStatus  `json:"bundle,omitempty"`
	Issuer  *rotation.Delivered     `json:"issuer,omitempty"`
	Loaded  *rotation.Loaded        `json:"loaded,omitempty"`
	Proxies *rotation.ProxiesStatus `json:"proxies,omitempty"`
}

func (a *App) trustStatusCommand() *cobra.Command {
	var format string
	var watch bool
	cmd := &cobra.Command{
		Use: "status", Short: "How far a change of the trust anchor has come", Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Shows at which stage a change of the trust anchor is, what it waits for, and in each cluster which anchors are
published, which sign its issuer, and what has to be restarted.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := outputOf(format, "table", "json", "yaml")
			if err != nil {
				return err
			}
			if watch {
				socket, err := a.Socket(a.configPath)
				if err != nil {
					return err
				}
				return a.watchChange(cmd.Context(), api.NewClient(socket))
			}
			st, note, err := ask(cmd.Context(), a, func(ctx context.Context, s api.Service) (rotation.FleetStatus, error) { return working(s.Status(ctx)) })
			if err != nil {
				return err
			}
			if note != "" {
				a.aside(note)
			}
			if o.machine() {
				return a.document(o, trustReport(st))
			}
			a.tell(a.style().changeLines(st)...)
			return nil
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "stay and tell what changes, until it has ended")
	outputFlag(cmd, &format, "table", "json", "yaml")
	return cmd
}

func trustReport(st rotation.FleetStatus) TrustReport {
	doc := TrustReport{APIVersion: st.APIVersion, Kind: "TrustStatus", Fleet: st.Fleet, ObservedAt: st.ObservedAt, Source: st.Source, Trust: st.Trust, Clusters: []TrustCluster{}}
	for _, c := range st.Clusters {
		t := TrustCluster{Name: c.Name, State: c.State, Bundle: c.Bundle, Proxies: c.Proxies}
		if c.Issuer != nil {
			t.Issuer, t.Loaded = c.Issuer.Delivered, c.Issuer.Loaded
		}
		doc.Clusters = append(doc.Clusters, t)
	}
	return doc
}

// changeLines is `certd trust status` as text.
func (v style) changeLines(st rotation.FleetStatus) []string {
	r := st.Trust.Rotation
	if r == nil || r.Phase == "idle" {
		if st.Trust.Active == nil {
			return []string{"there is no trust anchor yet"}
		}
		return []string{v.mark(markOK) + " the trust anchor is " + v.clean(st.Trust.Active.ID) + "; it is not being changed"}
	}
	var lines []string
	m, head := markWaiting, changeHead(*r)
	if r.Held {
		m = markWarning
	}
	lines = append(lines, v.wrap(v.mark(m)+" ", "  ", v.clean(head))...)
	if r.StageAt != nil {
		lines = append(lines, v.wrap("  ", "  ", "in this stage since "+v.when(*r.StageAt))...)
	}
	if r.Reason != "" {
		lines = append(lines, v.wrap("  ", "  ", "by "+v.clean(r.Actor)+": "+v.clean(r.Reason))...)
	}
	if len(r.Without) > 0 {
		lines = append(lines, v.wrap("  ", "  ", "nobody waits for "+v.clean(strings.Join(r.Without, ", ")))...)
	}
	if text := approvalText(v, r.Approval); text != "" {
		lines = append(lines, v.wrap("  ", "  ", text)...)
	}
	if w := workloadLines(v, st); len(w) > 0 {
		lines = append(append(lines, "", "Workloads"), w...)
	}
	if len(r.WaitingFor) > 0 {
		lines = append(lines, "", "Waits for")
		for _, w := range r.WaitingFor {
			lines = append(lines, v.wrap("  ", "    ", v.clean(w))...)
		}
	}
	cols := []column{{name: "CLUSTER", least: 8}, {name: "TRUSTS"}, {name: "ISSUER"}, {name: "PODS", rank: 1}, {name: "TO RESTART", rank: 1}}
	var rows [][]cell
	for _, c := range st.Clusters {
		trusts, issuer, pods, stale := "-", "-", "-", "-"
		if c.Bundle != nil {
			var ids []string
			for _, an := range c.Bundle.Anchors {
				if an.ID != "" {
					ids = append(ids, an.ID)
				}
			}
			trusts = strings.Join(ids, ", ")
		}
		if c.Issuer != nil && c.Issuer.Delivered != nil {
			issuer = c.Issuer.Delivered.Anchor
			if c.Issuer.Delivered.Second != "" {
				issuer += ", " + c.Issuer.Delivered.Second
			}
		}
		if c.Proxies != nil {
			pods, stale = fmt.Sprint(c.Proxies.Total), fmt.Sprint(c.Proxies.Stale)
		}
		rows = append(rows, []cell{text(v.clean(c.Name)), text(v.clean(trusts)), text(v.clean(issuer)), text(pods), text(stale)})
	}
	lines = append(append(lines, ""), v.table("", cols, rows)...)
	if commands := v.restartLines(st); len(commands) > 0 {
		lines = append(append(lines, "", "To be restarted"), commands...)
	}
	return lines
}

// stageCreate comes before a change is on its way; rotation has the others.
const stageCreate rotation.Stage = "create"

// mostWaits is how many of the things that a change waits for status names.
const mostWaits = 3

// changeStages is what status says of a change under way: where it is, what it
// waits for, whether it can be left so, and what steers it.
func (v statusView) changeStages() []string {
	r := *v.doc.Trust.Rotation
	from, to := v.clean(sideName(r.From)), v.clean(sideName(r.To))
	head := fmt.Sprintf("%s → %s", from, to)
	switch {
	case r.Compromised:
		head += ", at once: " + from + " counts as compromised"
	case r.Back:
		head += ", turned around"
	}
	if r.Actor != "" {
		head += ", by " + v.clean(r.Actor)
	}
	if r.StartedAt != nil {
		head += " since " + v.when(*r.StartedAt)
	}
	if r.Reason != "" {
		head += ": " + v.clean(r.Reason)
	}
	lines := v.wrap("CHANGE     ", "           ", v.plain(head))
	about := map[rotation.Stage]string{
		stageCreate:           "the key of " + to + " and its certificate",
		rotation.StageBridge:  "each issuer has a second certificate, under " + to,
		rotation.StageSpread:  "bundles turn from " + from + " to " + to,
		rotation.StageRestart: "pods that trust " + from + " are created anew",
		rotation.StageFinish:  "issuers are under " + to + " alone",
		rotation.StageRetire:  "nothing needs " + from + " any more",
	}
	var rows [][]cell
	for i, stage := range []rotation.Stage{stageCreate, rotation.StageBridge, rotation.StageSpread, rotation.StageRestart, rotation.StageFinish, rotation.StageRetire} {
		m, progress := markOK, ""
		switch n := i + 1; {
		case n > r.Number:
			m = markWaiting
		case n == r.Number && r.Held:
			m = markWarning
		case n == r.Number:
			m = markRunning
		}
		if trusting, total := proxyTotal(v.doc.Clusters); stage == rotation.StageRestart && i+1 == r.Number && total > 0 {
			progress = v.bar(trusting, total)
		}
		rows = append(rows, []cell{v.marked(m, fmt.Sprintf("%d %s", i+1, stage)), text(about[stage]), text(progress)})
	}
	lines = append(lines, v.table("  ", []column{{}, {rank: 2, least: 20}, {rank: 1}}, rows)...)
	for i, w := range r.WaitingFor {
		lead := "               "
		if i == 0 {
			lead = "  waits for    "
		}
		if i == mostWaits && len(r.WaitingFor) > mostWaits+1 {
			lines = append(lines, fmt.Sprintf("               and %d more (certd trust status)", len(r.WaitingFor)-i))
			break
		}
		lines = append(lines, v.wrap(lead, "                 ", v.clean(w))...)
	}
	if text := approvalText(v.style, r.Approval); text != "" {
		lines = append(lines, v.wrap("  approval     ", "               ", text)...)
	}
	safe := "yes: whatever certd does or does not do now, pods accept each other"
	switch {
	case r.Compromised:
		safe = "no: pods that were restarted and those that were not refuse each other until all are"
	case !r.SafeToStop:
		safe = "no: certd trust status says why"
	}
	lines = append(lines, v.wrap("  safe to stop ", "               ", safe)...)
	steer := "certd trust hold"
	if r.Held {
		steer = "certd trust resume"
	}
	lines = append(append(lines, v.next("certd trust status")...), v.next(steer)...)
	if a := r.Approval; a != nil && a.By == "" {
		lines = append(lines, v.next("certd trust approve "+v.clean(a.Of))...)
	}
	if !r.Compromised {
		lines = append(lines, v.next("certd trust rollback")...)
	}
	return lines
}

// workloadLines say how workloads come to trust the new anchor: all of them, and by
// cluster where there are several.
func workloadLines(v style, st rotation.FleetStatus) (lines []string) {
	if w := st.Trust.Rotation.Workloads; w != nil {
		lines = v.wrap("  ", "    ", workloadsText(*w))
	}
	for _, c := range st.Clusters {
		if len(st.Clusters) > 1 && c.Proxies != nil && c.Proxies.Workloads != nil {
			lines = append(lines, v.wrap("  ", "    ", v.clean(c.Name)+": "+workloadsText(*c.Proxies.Workloads))...)
		}
	}
	return lines
}

// bar is a share of a whole. It is rounded down: 100 % means all.
func (v style) bar(part, whole int) string {
	const width = 20
	full := part * width / max(1, whole)
	return fmt.Sprintf("%s%s %3d %%  %s of %s", strings.Repeat("#", full), strings.Repeat(".", width-full), part*100/max(1, whole), thousands(part), thousands(whole))
}

func workloadsText(w rotation.WorkloadsStatus) string {
	text := fmt.Sprintf("%s: ", count(w.Total, "workload"))
	if w.Restarted != nil && w.Avoided != nil {
		text += fmt.Sprintf("%d restarted by certd, %d created anew without that, ", *w.Restarted, *w.Avoided)
	}
	return text + fmt.Sprintf("%d still to be restarted", w.Stale)
}

// sideName names one side of a change: where clusters that were taken over are
// brought to the fleet's anchor, each comes from its own.
func sideName(id string) string { return cmp.Or(id, "what the meshes came with") }

func changeHead(r rotation.RotationStatus) string {
	head := fmt.Sprintf("the trust anchor is being changed from %s to %s: stage %d of %d, %s", sideName(r.From), sideName(r.To), r.Number, r.Of, r.Stage)
	if r.Back {
		head = fmt.Sprintf("the change of the trust anchor was turned around, from %s back to %s: stage %d of %d, %s", sideName(r.From), sideName(r.To), r.Number, r.Of, r.Stage)
	}
	if r.Compromised {
		head = fmt.Sprintf("%s counts as compromised: trust turns to %s at once: stage %d of %d, %s", sideName(r.From), sideName(r.To), r.Number, r.Of, r.Stage)
	}
	if r.Held {
		head += " (held: certd trust resume)"
	}
	return head
}

// restartLines name what people are to restart, with the command for it.
func (v style) restartLines(st rotation.FleetStatus) (lines []string) {
	for _, c := range st.Clusters {
		if c.Proxies == nil {
			continue
		}
		owners := staleOwners(*c.Proxies)
		if len(owners) == 0 {
			continue
		}
		lines = append(lines, "  in "+v.clean(c.Name))
		for i, o := range owners {
			if i == mostOwners {
				lines = append(lines, fmt.Sprintf("    and %d more (certd status %s)", len(owners)-i, v.clean(c.Name)))
				break
			}
			lines = append(lines, v.restart(o)...)
		}
	}
	return lines
}

// steering are the commands that steer a change under way.
func (a *App) steering() []*cobra.Command {
	return []*cobra.Command{
		a.steerCommand(rotation.ChangeHold, "Have a change of the trust anchor stay where it is", `Nothing moves on until certd trust resume: no bundle and no order of certificates is changed, and nothing is restarted.
Issuers are renewed all the same, and what is damaged is repaired. Pods that would be cut off are still made good for.`, "certd trust resume"),
		a.steerCommand(rotation.ChangeResume, "Have a change that was held go on", `Takes certd trust hold back.`, "certd trust hold"),
		a.steerCommand(rotation.ChangeRollback, "Turn a change of the trust anchor around", `Leads the fleet back to the anchor it came from, the way it came: issuers are signed under both anchors again
everywhere, then trust turns back, pods that lack the former anchor are to be restarted, and the newer one is retired.
It can be turned around again by the same command.`, "certd trust rollback"),
		a.steerCommand(rotation.ChangeAdvance, "Have a change go on: to its next stage, or without clusters that do not answer", `Of a change that was begun with --manual each stage ends by this word; given before a stage has come to its end, it
counts when it has.

A cluster out of reach holds up every stage. With --without nobody waits for it any more: as soon as the others are
through, their workloads and those of the clusters left behind refuse each other, until these are back and have been
brought along. The change does not end, and the old anchor is not retired, before they are: unless the same is said
again in its last stage. Then they are left behind with the old anchor, which is not signed with anywhere else, and are
brought along by a change of their own when they answer. Its key must not be destroyed before.

A Link to a cluster that certd does not look after, or an ExternalWorkload, that is made amid a change holds it before
stage 5: pods of the fleet would refuse them. With --outsiders you say that they trust both anchors.`, "none: clusters are brought along as soon as they answer"),
		a.approveCommand(),
	}
}

// approveCommand names what is approved, so that nobody approves something else than
// what they have read.
func (a *App) approveCommand() *cobra.Command {
	cmd := a.steerCommand(rotation.ChangeApprove, "Approve, as a second person, that a change retires the old trust anchor", `Where the configuration has approvals.retire: 2, a change of the trust anchor does not end, and the old anchor is not
retired, before somebody has approved that who is not the one who began it or, where it was turned around, did that last.
From then on nothing leads back to the old anchor.

ID is what is retired, as certd trust status names it: a generation such as g1, or "adopted" for the anchors that
clusters came with. It can be approved from the beginning of stage 6, retire, on, and counts when the stage has come to
its end. An approval is void when the change is turned around, goes back to an earlier stage, or goes on without another
cluster. A --compromised change waits for nobody.

Two people are two users of the host that certd runs on, as the kernel tells them apart at the admin socket. Whoever may
become another user, edit the configuration, or write certd's files or mirror needs no second person.`, "certd trust rollback, until the change has ended")
	cmd.Use, cmd.ValidArgsFunction = "approve ID", a.completeApproval
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return hinted{errors.New("trust approve takes what is to be retired, as certd trust status names it"), api.ErrUsage, "certd trust status"}
		}
		return nil
	}
	cmd.Example = "  certd trust status\n  certd trust approve g1 --reason \"seen by both of us\""
	return cmd
}

// approvalText says who has approved that something is retired, or who is to; "" where
// nobody needs to.
func approvalText(v style, a *rotation.ApprovalStatus) string {
	if a == nil {
		return ""
	}
	of := v.clean(a.Of)
	if of == rotation.AdoptedAnchors {
		of = sideName("")
	}
	if a.By != "" {
		text := v.clean(a.By) + " has approved that " + of + " is retired"
		if a.At != nil {
			text += ", " + v.when(*a.At)
		}
		if a.Reason != "" {
			text += ": " + v.clean(a.Reason)
		}
		return text
	}
	who := "somebody else than " + v.clean(a.Not)
	if a.Not == "certd" {
		who = "a person"
	}
	if a.Since != nil {
		return "nothing but approval is waited for since " + v.when(*a.Since)
	}
	return who + " is to approve that " + of + " is retired, and can do so now"
}

func (a *App) steerCommand(how rotation.ChangeOrder, short, long, undo string) *cobra.Command {
	var reason string
	var without []string
	var dryRun, yes, outsiders bool
	cmd := &cobra.Command{
		Use: string(how), Short: short, Long: long, Args: noArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if outsiders && len(without) > 0 {
				return usage("trust advance: --without and --outsiders are two orders: one after the other")
			}
			return a.steer(cmd.Context(), api.ChangeRequest{Order: how, Without: without, Outsiders: outsiders, Approves: strings.Join(args, ""), Reason: reason}, dryRun, yes, undo)
		},
	}
	f := cmd.Flags()
	f.StringVar(&reason, "reason", "", "why, for the history")
	f.BoolVar(&dryRun, "dry-run", false, "say what would be done")
	f.BoolVar(&yes, "yes", false, "do not ask")
	if how == rotation.ChangeAdvance {
		f.StringSliceVar(&without, "without", nil, "`clusters` not to wait for")
		f.BoolVar(&outsiders, "outsiders", false, "whoever was made since the change began and certd does not look after has been seen to")
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc("without", a.completeClusters))
	}
	return cmd
}

func (a *App) steer(ctx context.Context, req api.ChangeRequest, dryRun, yes bool, undo string) error {
	socket, err := a.Socket(a.configPath)
	if err != nil {
		return err
	}
	daemon := api.NewClient(socket)
	plan := req
	plan.DryRun = true
	would, err := daemon.ChangeTrust(ctx, plan)
	if err != nil {
		return a.needsDaemon(err)
	}
	s := a.style()
	if dryRun {
		a.tell(s.wrap(s.mark(markWaiting)+" ", "  ", "it would be: "+s.clean(changeHead(would.Rotation)))...)
		a.aside("Nothing was changed.")
		return nil
	}
	if !yes {
		question := fmt.Sprintf("%s the change from %s to %s?", strings.ToUpper(string(req.Order[:1]))+string(req.Order[1:]), s.clean(sideName(would.Rotation.From)), s.clean(sideName(would.Rotation.To)))
		if req.Outsiders {
			question = "Go on? Whoever certd does not look after and does not trust both anchors is refused."
		} else if req.Order == rotation.ChangeAdvance && len(req.Without) == 0 {
			question = fmt.Sprintf("End stage %s when nothing stands against it, and begin the next?", s.clean(would.Rotation.Stage))
		}
		if req.Order == rotation.ChangeApprove {
			question = fmt.Sprintf("Have %s retired when the change from %s to %s ends? Nothing leads back to it from then on.", s.clean(req.Approves), s.clean(sideName(would.Rotation.From)), s.clean(sideName(would.Rotation.To)))
		}
		if len(req.Without) > 0 {
			question = fmt.Sprintf("Go on without %s? Their workloads and the others' will refuse each other until they are back.", s.clean(strings.Join(req.Without, ", ")))
		}
		if err := a.confirm(ctx, question, "yes"); err != nil {
			return err
		}
	}
	reply, err := daemon.ChangeTrust(ctx, req)
	switch {
	case errors.Is(err, context.Canceled):
		return interrupted("the daemon has the request; certd trust status shows what came of it")
	case err != nil:
		return a.needsDaemon(err)
	}
	a.tell(s.wrap(s.mark(markOK)+" ", "  ", s.clean(changeHead(reply.Rotation)))...)
	if text := approvalText(s, reply.Rotation.Approval); text != "" {
		a.tell(s.wrap("  ", "  ", text)...)
	}
	a.aside(s.next("certd trust status")...)
	a.aside(a.undo(undo)...)
	return nil
}
