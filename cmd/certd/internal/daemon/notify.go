package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"certd.internal/backends/receiver"
	"certd.internal/cmd/certd/internal/api"
	"certd.internal/cmd/certd/internal/config"
	"certd.internal/cmd/certd/internal/metrics"
	"certd.internal/cmd/certd/internal/notify"
	"certd.internal/cmd/certd/internal/traces"
	"certd.internal/rotation"
	"certd.internal/state"
)

// newNotifier tells of what the loop finds.
func newNotifier(c *config.Config, j *state.Journal, r *rotation.Reconciler, counts *metrics.Recorder, spans *traces.Traces, log *slog.Logger) (*notify.Notifier, error) {
	return notify.New(c.Name, c.Notify, notify.World{
		Journal: j, Log: log, Status: r.Status,
		Plan:    func(until time.Time) rotation.Plan { return r.Plan(until, false) },
		History: func(since time.Time) ([]rotation.Entry, error) { return j.Entries(state.Filter{Since: since}) },
		Counted: func(c notify.Count, by int) { counts.Notified(c.Receiver, c.Result, by) },
		Sending: func(ctx context.Context, name, kind string, messages []receiver.Message) (context.Context, func(error)) {
			ids := make([]string, len(messages))
			for i, m := range messages {
				ids[i] = m.ID
			}
			return spans.Notify(ctx, name, kind, ids)
		},
		Failing: func(err error) {
			if err == nil {
				r.Solved("NotifyFailing")
				return
			}
			r.Problem("NotifyFailing", err)
		},
	})
}

func (s *running) TestReceiver(ctx context.Context, req api.ReceiverTest) (api.ReceiverTestReply, error) {
	m, err := s.notifier.Test(ctx, req.Receiver, req.Actor)
	switch {
	case errors.Is(err, notify.ErrNoReceiver):
		return api.ReceiverTestReply{}, fmt.Errorf("debug notify: %w: %w", err, api.ErrUsage)
	case err != nil:
		return api.ReceiverTestReply{}, fmt.Errorf("debug notify: %s has not taken the test: %w: %w", req.Receiver, err, api.ErrUnavailable)
	}
	return api.ReceiverTestReply{Receiver: req.Receiver, ID: m.ID, At: m.At}, nil
}

func (s *offline) TestReceiver(context.Context, api.ReceiverTest) (api.ReceiverTestReply, error) {
	return api.ReceiverTestReply{}, fmt.Errorf("debug notify needs the daemon; start it with certd run: %w", api.ErrNoDaemon)
}
