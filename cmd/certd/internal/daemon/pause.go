package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"certd.internal/cmd/certd/internal/api"
	"certd.internal/rotation"
)

// longestPause is how long a pause can be asked for. One without an end lasts until
// somebody resumes.
const longestPause = 366 * 24 * time.Hour

// Pause implements api.Service.
func (s *running) Pause(_ context.Context, req api.PauseRequest) (api.PauseReply, error) {
	reply := api.PauseReply{Pauses: []api.Pause{}, Ended: []api.Pause{}}
	verb := "pause"
	if req.Resume {
		verb = "resume"
	}
	policy := s.policy()
	for _, name := range req.Clusters {
		if !slices.ContainsFunc(policy.Clusters, func(p rotation.Policy) bool { return p.Cluster == name }) {
			return reply, fmt.Errorf("%s: cluster %q is not configured: %w", verb, name, api.ErrUsage)
		}
	}
	var until time.Time // zero: until somebody resumes
	if req.Seconds > 0 {
		until = time.Now().Add(time.Duration(req.Seconds) * time.Second)
	}
	switch {
	case req.Seconds < 0 || req.Seconds > int64(longestPause/time.Second):
		return reply, fmt.Errorf("pause: for %d seconds: from one second to %s: %w", req.Seconds, rotation.FormatDuration(longestPause), api.ErrUsage)
	case !req.Resume && strings.TrimSpace(req.Reason) == "":
		return reply, fmt.Errorf("pause: say why, with --reason: whoever is on call reads it: %w", api.ErrUsage)
	}
	was := s.reconciler.Pauses()
	var now []rotation.Pause
	var err error
	switch {
	case req.Resume:
		now, reply.Ended, err = s.resumed(req, was)
	case req.DryRun:
		names := req.Clusters
		if len(names) == 0 {
			names = []string{""}
		}
		for _, name := range names {
			now = append(now, rotation.Pause{Cluster: name, At: time.Now(), Until: until, Actor: req.Actor, Reason: req.Reason})
		}
	default:
		now, err = s.reconciler.Pause(req.Clusters, until, req.Actor, req.Reason)
	}
	for _, p := range now {
		reply.Pauses = append(reply.Pauses, asPause(p))
	}
	return reply, asService(err)
}

// resumed ends pauses, each of which there has to be.
func (s *running) resumed(req api.PauseRequest, was []rotation.Pause) (now []rotation.Pause, ended []api.Pause, err error) {
	ended = []api.Pause{}
	of := func(name string) int {
		return slices.IndexFunc(was, func(p rotation.Pause) bool { return p.Cluster == name })
	}
	for _, name := range req.Clusters {
		switch {
		case of(name) < 0 && of("") >= 0:
			return nil, ended, fmt.Errorf("resume: cluster %q is paused with the whole fleet; certd resume without a name ends that: %w", name, api.ErrNotNow)
		case of(name) < 0:
			return nil, ended, fmt.Errorf("resume: cluster %q is not paused: %w", name, api.ErrNotNow)
		}
	}
	if len(was) == 0 {
		return nil, ended, fmt.Errorf("resume: nothing is paused: %w", api.ErrNotNow)
	}
	for _, p := range was {
		if len(req.Clusters) == 0 || slices.Contains(req.Clusters, p.Cluster) {
			ended = append(ended, asPause(p))
		} else {
			now = append(now, p)
		}
	}
	if req.DryRun {
		return now, ended, nil
	}
	reason := req.Reason
	if reason == "" {
		reason = "asked for"
	}
	now, err = s.reconciler.Resume(req.Clusters, req.Actor, reason)
	return now, ended, err
}

func asPause(p rotation.Pause) api.Pause {
	a := api.Pause{Cluster: p.Cluster, Since: p.At.UTC().Truncate(time.Second), By: p.Actor, Reason: p.Reason}
	if !p.Until.IsZero() {
		at := p.Until.UTC().Truncate(time.Second)
		a.Until = &at
	}
	return a
}

// pausedWhat is what to name to certd resume.
func pausedWhat(p rotation.PauseStatus, cluster string) string {
	if p.Fleet {
		return "(without a name)"
	}
	return cluster
}

func (s *offline) Pause(_ context.Context, req api.PauseRequest) (api.PauseReply, error) {
	verb := "pause"
	if req.Resume {
		verb = "resume"
	}
	return api.PauseReply{}, fmt.Errorf("%s needs the daemon; start it with certd run: %w", verb, api.ErrNoDaemon)
}
