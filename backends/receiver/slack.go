package receiver

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Slack is an incoming webhook of Slack's, or of one that takes the same
// (Mattermost, Rocket.Chat). Its URL is a secret.
type Slack struct {
	Access Access
	URL    Secret
}

// Traits implements Receiver.
func (Slack) Traits() Traits { return Traits{Kind: "slack"} }

// maxSlack is where Slack cuts a text off, less a margin.
const maxSlack = 38_000

// Send implements Receiver.
func (s Slack) Send(ctx context.Context, messages []Message) error {
	m, err := one(messages)
	if err != nil {
		return err
	}
	secret, err := s.URL.Read()
	if err != nil {
		return &Failure{Why: fmt.Sprintf("tell Slack: %v", err)}
	}
	u, err := s.Access.Check(string(secret))
	if err != nil {
		return &Failure{Why: fmt.Sprintf("tell Slack: the URL that is kept as a secret cannot be used: %v", err)}
	}
	body, err := json.Marshal(map[string]string{"text": slackText(m)})
	if err != nil {
		return fmt.Errorf("tell Slack: %w", err)
	}
	return s.Access.post(ctx, "Slack", u, nil, body)
}

// slackText is the message in mrkdwn. What stands in it from elsewhere is
// escaped, so that it can make no links and mention nobody.
func slackText(m Message) string {
	lines := strings.Split(clip(m.Text(), maxSlack/4), "\n")
	for i, line := range lines {
		line = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(line)
		if i == 0 {
			line = slackMark(m) + " " + line
		}
		if fix, is := strings.CutPrefix(line, "type: "); is {
			line = "type: `" + strings.ReplaceAll(fix, "`", "'") + "`"
		}
		if f := m.Finding; f != nil && f.Deadline != nil && strings.HasPrefix(line, "deadline: ") {
			line = fmt.Sprintf("deadline: <!date^%d^{date_short_pretty} {time}|%s>", f.Deadline.Unix(), f.Deadline.UTC().Format(time.RFC3339))
		}
		lines[i] = line
	}
	return strings.Join(lines, "\n")
}

func slackMark(m Message) string {
	switch {
	case m.Event == Cleared, m.Event == SummaryEnd:
		return ":white_check_mark:"
	case m.Severity == "critical":
		return ":red_circle:"
	case m.Severity == "warning", m.Severity == "unknown":
		return ":warning:"
	}
	return ":information_source:"
}
