package rotation

import "time"

// State is the health of a cluster or of the fleet, as words in JSON.
type State string

// The states. StateUnknown is never better than StateWarning (I12).
const (
	StateOK       State = "ok"
	StateWarning  State = "warning"
	StateCritical State = "critical"
	StateUnknown  State = "unknown"
)

// APIVersion stands in every document certd prints or serves.
const APIVersion = "certd/v1"

// FleetStatus is the document behind `certd status`: what is known, how old
// it is, and how long there is to act. Absent means unknown or not applicable;
// known false, 0 and [] are written.
type FleetStatus struct {
	APIVersion          string          `json:"apiVersion"`
	Kind                string          `json:"kind"` // FleetStatus
	Fleet               string          `json:"fleet"`
	ObservedAt          time.Time       `json:"observedAt"`
	State               State           `json:"state"`
	Source              string          `json:"source"` // daemon, journal or live
	Version             string          `json:"version"`
	NothingBreaksBefore *time.Time      `json:"nothingBreaksBefore,omitempty"`
	FirstToBreak        *Break          `json:"firstToBreak,omitempty"`
	Trust               TrustStatus     `json:"trust"`
	Summary             Summary         `json:"summary"`
	Clusters            []ClusterStatus `json:"clusters"`
	Findings            []Finding       `json:"findings"` // of the fleet, not of one cluster
	Daemon              *DaemonStatus   `json:"daemon,omitempty"`
	Election            *ElectionStatus `json:"election,omitempty"`
	Recent              []HistoryItem   `json:"recent,omitempty"` // the last few entries, newest first
}

// What a certd is among several.
const (
	RoleLeader  = "leader"  // it works
	RoleStandby = "standby" // it waits until it is elected, or has been and takes over
)

// ElectionStatus is how several certd elect the one that works; absent where there is one.
type ElectionStatus struct {
	Role     string     `json:"role"` // of this certd: leader or standby
	Lease    string     `json:"lease"`
	Identity string     `json:"identity"`        // of this certd in the Lease
	Holder   string     `json:"holder"`          // who leads; "": nobody, as far as is known
	Since    *time.Time `json:"since,omitempty"` // by the holder's clock
	Problem  string     `json:"problem,omitempty"`
}

// Sentence says what this certd is, and who leads.
func (e ElectionStatus) Sentence() string {
	since := ""
	if e.Since != nil {
		since = " since " + e.Since.UTC().Format(time.RFC3339)
	}
	text := "this certd is a standby, and nobody is seen to lead"
	switch {
	case e.Role == RoleLeader:
		text = "this certd leads" + since
	case e.Holder == e.Identity && e.Holder != "":
		text = "this certd was elected, and is taking over"
	case e.Holder != "":
		text = "this certd is a standby; " + e.Holder + " leads" + since
	}
	if text += " (Lease " + e.Lease + ")"; e.Problem != "" {
		text += "; the Lease cannot be asked: " + e.Problem
	}
	return text
}

// DaemonStatus is what the daemon says of itself.
type DaemonStatus struct {
	StartedAt   time.Time  `json:"startedAt"`
	PID         int        `json:"pid"`
	LastCycleAt *time.Time `json:"lastCycleAt,omitempty"`
	Epoch       uint64     `json:"epoch"`
	StoreBytes  int64      `json:"storeBytes"`
	ConfigFile  string     `json:"configFile"`
	// Receivers of notifications; absent where none is configured.
	Receivers []ReceiverStatus `json:"receivers,omitempty"`
}

// ReceiverStatus is how a receiver of notifications does.
type ReceiverStatus struct {
	Name         string     `json:"name"`
	Kind         string     `json:"kind"` // slack, pagerDuty, alertmanager or webhook
	Waiting      int        `json:"waiting"`
	Lost         int        `json:"lost"` // given up since it last took one
	LastDelivery *time.Time `json:"lastDelivery,omitempty"`
	FailingSince *time.Time `json:"failingSince,omitempty"`
	Error        string     `json:"error,omitempty"` // of the last attempt, while it fails
}

// Break is the first thing that stops working if certd does nothing more.
type Break struct {
	Cluster string    `json:"cluster,omitempty"`
	Kind    string    `json:"kind"` // issuer, webhook or anchor
	Name    string    `json:"name"`
	At      time.Time `json:"at"`
}

// TrustStatus is about the trust anchors.
type TrustStatus struct {
	Active   *AnchorStatus   `json:"active,omitempty"`
	RenewAt  *time.Time      `json:"renewAt,omitempty"` // when Active comes into trust.renewBefore
	Others   []AnchorStatus  `json:"others"`
	Rotation *RotationStatus `json:"rotation"`
}

// RotationStatus is about a change of the trust anchor.
type RotationStatus struct {
	Phase      string   `json:"phase"` // idle, create, bridge, …
	Number     int      `json:"number"`
	Of         int      `json:"of"`
	SafeToStop bool     `json:"safeToStop"`
	WaitingFor []string `json:"waitingFor"`

	// What follows is there while the anchor is changed.
	Stage       string     `json:"stage,omitempty"` // as phase, also while it is turned back
	From        string     `json:"from,omitempty"`  // generation ids
	To          string     `json:"to,omitempty"`
	Held        bool       `json:"held"`              // by a person
	Back        bool       `json:"back"`              // it was turned around
	Manual      bool       `json:"manual"`            // each stage ends by a person's word
	Compromised bool       `json:"compromised"`       // from is not to be trusted any more, at whatever cost
	Without     []string   `json:"without,omitempty"` // clusters that are not waited for
	Reason      string     `json:"reason,omitempty"`
	Actor       string     `json:"actor,omitempty"`
	StartedAt   *time.Time `json:"startedAt,omitempty"`
	StageAt     *time.Time `json:"stageAt,omitempty"`  // when the stage began
	ProvedAt    *time.Time `json:"provedAt,omitempty"` // when every cluster was there; leaves from before then end a drain later
	// ProgressAt is when it last came nearer its end: a stage began or was proved, a
	// cluster got to the end of the stage, or fewer pods trust the old anchor.
	ProgressAt *time.Time `json:"progressAt,omitempty"`
	// Workloads is there from stage restart on, where all clusters could be counted.
	Workloads *WorkloadsStatus `json:"workloads,omitempty"`
	// Approval is there in stage retire, where the configuration asks for a second person,
	// or one has approved.
	Approval *ApprovalStatus `json:"approval,omitempty"`
}

// ApprovalStatus is how far a change is with a second person's approval; By, Reason and At
// are absent until it is given.
type ApprovalStatus struct {
	Of     string     `json:"of"`              // what is to be retired, as certd trust approve takes it
	Not    string     `json:"not"`             // whose approval does not count; "certd": anybody's does
	Since  *time.Time `json:"since,omitempty"` // when everything else had come to its end; absent: it has not
	By     string     `json:"by,omitempty"`
	At     *time.Time `json:"at,omitempty"`
	Reason string     `json:"reason,omitempty"`
}

// WorkloadsStatus counts what makes meshed pods, by how these come to trust the new
// anchor: Total is the sum of the others.
type WorkloadsStatus struct {
	Total int `json:"total"`
	Stale int `json:"stale"` // some of their pods do not yet
	// Restarted are those that certd has restarted, Avoided those whose pods were
	// created since in any case, or by others. Absent where the journal does not go back
	// far enough.
	Restarted *int `json:"restarted,omitempty"`
	Avoided   *int `json:"avoided,omitempty"`
}

// AnchorStatus is one trust anchor.
type AnchorStatus struct {
	ID        string    `json:"id"`
	Subject   string    `json:"subject"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	SHA256    string    `json:"sha256"`
	SKI       string    `json:"ski"`
	Key       KeyStatus `json:"key"`
}

// KeyStatus is where an anchor's key is.
type KeyStatus struct {
	Backend    string     `json:"backend"`
	Name       string     `json:"name"`
	Exportable bool       `json:"exportable"`
	Imported   bool       `json:"imported"` // it was made elsewhere: there may be copies
	CheckedAt  *time.Time `json:"checkedAt,omitempty"`
}

// Summary counts clusters by state.
type Summary struct {
	Clusters int `json:"clusters"`
	OK       int `json:"ok"`
	Warning  int `json:"warning"`
	Critical int `json:"critical"`
	Unknown  int `json:"unknown"`
}

// ClusterStatus is one cluster as last seen.
type ClusterStatus struct {
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels"`
	Groups      []string          `json:"groups"` // of the configuration, in its order
	State       State             `json:"state"`
	Mode        string            `json:"mode"` // managed, watched or paused
	Pause       *PauseStatus      `json:"pause,omitempty"`
	Namespace   string            `json:"namespace"`
	LastContact *time.Time        `json:"lastContact,omitempty"`
	Reachable   *bool             `json:"reachable,omitempty"` // by the last look; absent: there was none yet, or nobody looks
	Version     string            `json:"version,omitempty"`
	Bundle      *BundleStatus     `json:"bundle,omitempty"`
	Issuer      *IssuerStatus     `json:"issuer,omitempty"`
	WebhookCA   *WebhookCAStatus  `json:"webhookCA,omitempty"`
	Webhooks    []WebhookStatus   `json:"webhooks,omitzero"` // absent where none can run, or the cluster was not seen
	Proxies     *ProxiesStatus    `json:"proxies,omitempty"`
	Findings    []Finding         `json:"findings"`
	NextStep    *PlanItem         `json:"nextStep,omitempty"`
}

// PauseStatus is who has a cluster left alone.
type PauseStatus struct {
	Since  time.Time  `json:"since"`
	Until  *time.Time `json:"until,omitempty"` // absent: until somebody resumes
	By     string     `json:"by"`
	Reason string     `json:"reason"`
	Fleet  bool       `json:"fleet"` // it is the whole fleet that is paused
}

// ProxiesStatus counts the meshed pods by what they trust.
type ProxiesStatus struct {
	Total   int          `json:"total"`
	Current int          `json:"current"` // trust the keys of the bundle, and no others
	Stale   int          `json:"stale"`   // trust something else
	Unknown int          `json:"unknown"`
	At      *time.Time   `json:"at,omitempty"`
	Restart []StaleOwner `json:"restart"`           // whose pods are stale; not all, where they are many
	Problem string       `json:"problem,omitempty"` // why there is no count, or not a whole one
	// Workloads is there during a change of the trust anchor, from stage restart on.
	Workloads *WorkloadsStatus `json:"workloads,omitempty"`
	// Outside are those whom the mesh talks to and whom certd does not look after.
	Outside []string `json:"outside,omitempty"`
}

// StaleOwner is a workload whose pods have to be created anew.
type StaleOwner struct {
	Namespace string `json:"namespace"`
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Pods      int    `json:"pods"`
	// Of is what makes it in its turn, where that was seen: of a Job the CronJob.
	Of *OwnerRef `json:"of,omitempty"`
}

// OwnerRef names an owner's owner, in the same namespace.
type OwnerRef struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// Owner is what RestartCommand and RestartAdvice are asked about.
func (o StaleOwner) Owner() ProxyOwner {
	p := ProxyOwner{Namespace: o.Namespace, Kind: o.Kind, Name: o.Name, Pods: o.Pods}
	if o.Of != nil {
		p.Of = ObjectRef{Kind: o.Of.Kind, Name: o.Of.Name}
	}
	return p
}

// WebhookCAStatus is the CA over a cluster's webhooks.
type WebhookCAStatus struct {
	AnchorStatus
	RenewAt     *time.Time `json:"renewAt,omitempty"`
	MustRenewBy *time.Time `json:"mustRenewBy,omitempty"`
	NextRun     *time.Time `json:"nextRun,omitempty"`
}

// WebhookStatus is one webhook, or aggregated API server, that is installed.
type WebhookStatus struct {
	Name      string         `json:"name"`
	Kind      string         `json:"kind"` // mutating, validating or apiservice
	Namespace string         `json:"namespace"`
	Secret    string         `json:"secret"`
	Mode      string         `json:"mode"` // managed or watched
	Why       string         `json:"why,omitempty"`
	Delivered *Delivered     `json:"delivered,omitempty"`
	Served    *Loaded        `json:"served,omitempty"`
	Check     *CheckStatus   `json:"check,omitempty"`
	CABundle  CABundleStatus `json:"caBundle"`
	// Ignored: failurePolicy is Ignore, so that the API server goes on without
	// it and tells nobody.
	Ignored     bool       `json:"ignored"`
	RenewAt     *time.Time `json:"renewAt,omitempty"`
	MustRenewBy *time.Time `json:"mustRenewBy,omitempty"`
	NextRun     *time.Time `json:"nextRun,omitempty"`
}

// CheckStatus is the outcome of asking a webhook as its users do, in a dry run.
type CheckStatus struct {
	State    string     `json:"state"` // yes, no or unknown
	Evidence string     `json:"evidence"`
	At       *time.Time `json:"at,omitempty"`
}

// CABundleStatus is what the API server knows a webhook by.
type CABundleStatus struct {
	Current bool        `json:"current"` // as certd would have it
	Accepts bool        `json:"accepts"` // what is served, as far as that is known
	CAs     []AnchorRef `json:"cas"`
	SHA256  string      `json:"sha256,omitempty"`
}

// BundleStatus is what the cluster publishes.
type BundleStatus struct {
	SHA256  string      `json:"sha256"`
	Anchors []AnchorRef `json:"anchors"`
	Current bool        `json:"current"`
}

// AnchorRef names an anchor; ID is absent where certd did not make it.
type AnchorRef struct {
	ID       string    `json:"id,omitempty"`
	Foreign  string    `json:"foreign,omitempty"` // name of the partner mesh whose it is
	Subject  string    `json:"subject"`
	SHA256   string    `json:"sha256"`
	NotAfter time.Time `json:"notAfter"`
}

// IssuerStatus tells what was delivered, what is in use, and what comes next.
type IssuerStatus struct {
	Delivered   *Delivered `json:"delivered,omitempty"`
	Loaded      *Loaded    `json:"loaded,omitempty"`
	RenewAt     *time.Time `json:"renewAt,omitempty"`
	MustRenewBy *time.Time `json:"mustRenewBy,omitempty"`
	NextRun     *time.Time `json:"nextRun,omitempty"`
	// FloorSeconds is what it must have left at least (Policy.Floor), by what the
	// cluster runs with.
	FloorSeconds int64 `json:"floorSeconds,omitempty"`
}

// Delivered is the certificate in the Secret.
type Delivered struct {
	Serial    string    `json:"serial"`
	SHA256    string    `json:"sha256"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	Anchor    string    `json:"anchor,omitempty"`
	Second    string    `json:"second,omitempty"` // that a second certificate of the same key is under, while the anchor is changed
}

// Loaded is what linkerd-identity was seen to sign with, or the replicas of a
// webhook to serve.
type Loaded struct {
	State    string     `json:"state"`            // yes, no or unknown
	Serial   string     `json:"serial,omitempty"` // where it could be seen
	NotAfter *time.Time `json:"notAfter,omitempty"`
	Evidence string     `json:"evidence"`
	At       *time.Time `json:"at,omitempty"`
}

// Finding is one thing a person should know, with how long there is.
type Finding struct {
	ID       string     `json:"id"`
	Cluster  string     `json:"cluster,omitempty"` // absent where it stands with its cluster, or is about the fleet
	Severity State      `json:"severity"`          // warning, critical or unknown
	Message  string     `json:"message"`
	Deadline *time.Time `json:"deadline,omitempty"`
	Tried    *Tried     `json:"tried,omitempty"`   // what certd does about it by itself
	Fix      string     `json:"fix,omitempty"`     // something to type
	Runbook  string     `json:"runbook,omitempty"` // a command that prints what to know about it; Conclude enters it
}

// Tried is what certd has tried about a finding, in vain so far.
type Tried struct {
	Step  Step       `json:"step,omitempty"` // absent: a look at the cluster
	Times int        `json:"times"`          // in a row
	Since time.Time  `json:"since"`
	Next  *time.Time `json:"next,omitempty"`
}

// PlanItem is one step to come.
type PlanItem struct {
	Cluster string    `json:"cluster,omitempty"`
	Step    Step      `json:"step"`
	Webhook string    `json:"webhook,omitempty"`
	Due     time.Time `json:"due"` // when it is due
	At      time.Time `json:"at"`  // when certd will do it
	Reason  string    `json:"reason"`
	Undo    string    `json:"undo"`
}

// Plan is the document behind `certd plan`.
type Plan struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"` // Plan
	Fleet      string     `json:"fleet"`
	ObservedAt time.Time  `json:"observedAt"`
	Until      time.Time  `json:"until"`         // of the last step where it was cut
	Cut        bool       `json:"cut,omitempty"` // there are more steps than a plan lists
	Items      []PlanItem `json:"items"`
	Breaks     []Break    `json:"breaks,omitempty"` // with --if-stopped
	Findings   []Finding  `json:"findings"`         // what keeps certd from acting
	// Least are the closest renewals until then: of issuers, of webhooks' certificates.
	Least   []LeastLeft  `json:"least,omitempty"`
	Windows []PlanWindow `json:"windows,omitempty"`
	Freezes []PlanFreeze `json:"freezes,omitempty"` // those that have not ended
}

// LeastLeft is what a certificate has left when it is renewed as planned; of all
// of its kind, it is the least.
type LeastLeft struct {
	Cluster     string    `json:"cluster"`
	Kind        string    `json:"kind"` // issuer or webhook
	At          time.Time `json:"at"`
	LeftSeconds int64     `json:"leftSeconds"`
}

// PlanWindow is the next time that workloads may be restarted in for a change of
// the trust anchor.
type PlanWindow struct {
	Name     string    `json:"name"`
	OpensAt  time.Time `json:"opensAt"` // in the past where it is open
	ClosesAt time.Time `json:"closesAt"`
	Clusters int       `json:"clusters"` // that go by it
}

// PlanFreeze is a time in which nothing is restarted for a change of the trust
// anchor. Renewals take no notice of it.
type PlanFreeze struct {
	Name     string    `json:"name"`
	Reason   string    `json:"reason,omitempty"`
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`       // the first instant after it
	Clusters int       `json:"clusters"` // that go by it
}

// HistoryItem is one entry of the journal, as `history -o json` shows it.
// Hash covers the entry and PrevHash; PrevHash equals the Hash of the item
// with the next lower Seq.
type HistoryItem struct {
	Seq         uint64    `json:"seq"`
	At          time.Time `json:"at"`       // when the outcome was recorded
	IntentAt    time.Time `json:"intentAt"` // when the intent was
	Actor       string    `json:"actor"`
	Cluster     string    `json:"cluster,omitempty"`
	Step        Step      `json:"step"`
	Reason      string    `json:"reason"`
	Outcome     Result    `json:"outcome"`
	Detail      string    `json:"detail,omitempty"`
	Serial      string    `json:"serial,omitempty"`
	Anchor      string    `json:"anchor,omitempty"`
	Key         string    `json:"key,omitempty"`
	Digest      string    `json:"digest,omitempty"`
	SignRequest string    `json:"signRequest,omitempty"`
	Object      string    `json:"object,omitempty"`
	Writer      string    `json:"writer,omitempty"`
	Webhook     string    `json:"webhook,omitempty"`
	Hash        string    `json:"hash"`
	PrevHash    string    `json:"prevHash"`
}

// HistoryList is the document behind `certd history`.
type HistoryList struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"` // HistoryList
	Fleet      string        `json:"fleet"`
	Source     string        `json:"source"`
	Items      []HistoryItem `json:"items"`
}
