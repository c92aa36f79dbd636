package telemetry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/bobbin-run/bobbin/execution"
)

const (
	dashboardFile = "../deploy/grafana-dashboard.json"
	alertsFile    = "../deploy/prometheus-alerts.yml"
)

var (
	metricName = regexp.MustCompile(`\b(?:bobbin|process|go)_[a-z_]+\b`)
	selector   = regexp.MustCompile(`\b((?:bobbin|process|go)_[a-z_]+)(\{[^}]*\})?`)
	quotedText = regexp.MustCompile(`"[^"]*"`)
	matcher    = regexp.MustCompile(`\b([a-z_]+)(?:=~|!~|!=|=)"([^"]*)"`)
	grouping   = regexp.MustCompile(`\bby \(([^)]*)\)`)
	duration   = regexp.MustCompile(`^(\d+(ms|[smhdwy]))+$`)
	ranged     = regexp.MustCompile(`\[([^\]]*)\]`)
	operand    = regexp.MustCompile(`^(?:[a-zA-Z_][\w:]*|\d[\w.]*|"[^"]*"|\{[^}]*\}|\[[^\]]*\])`)
	operator   = regexp.MustCompile(`^(?:==|!=|<=|>=|[-+*/%^<>])`)
)

// Every query of the dashboard and of the alert rules asks for metrics, labels and label values that a worker really has, and
// every alert has its section in the runbook.
func TestDashboardAndAlertsAskForWhatThereIs(t *testing.T) {
	t.Parallel()
	m, get := setup(t, &subject{})
	for _, status := range execution.Statuses {
		m.Executed(execution.Result{ID: "x", Workflow: "w.py", Status: status, StartedMS: 1})
	}
	_, text := get("/metrics")
	queries := append(dashboard(t), alerts(t)...)
	require.Greater(t, len(queries), 20)
	for _, query := range queries {
		require.NoError(t, checkQuery(query))
		names := metricName.FindAllString(quotedText.ReplaceAllString(query, ""), -1)
		require.NotEmpty(t, names, query)
		for _, name := range names {
			require.Regexp(t, `(?m)^`+name+`[ {]`, text, "%s asks for a metric that there is not", query)
		}
		for _, match := range matcher.FindAllStringSubmatch(query, -1) {
			if strings.HasPrefix(match[2], "$") {
				continue // a variable of the dashboard
			}
			for value := range strings.SplitSeq(match[2], "|") {
				require.Contains(t, text, match[1]+`="`+value+`"`, query)
			}
		}
		for _, match := range grouping.FindAllStringSubmatch(query, -1) {
			for label := range strings.SplitSeq(match[1], ",") {
				if label = strings.TrimSpace(label); label != "instance" {
					require.Regexp(t, names[0]+`\{[^}]*`+label+`="`, text, query)
				}
			}
		}
	}
}

// checkQuery finds slips of the pen where promtool, which knows the whole grammar, is not at hand.
func checkQuery(query string) error {
	for _, match := range ranged.FindAllStringSubmatch(query, -1) {
		for part := range strings.SplitSeq(match[1], ":") {
			if !duration.MatchString(part) {
				return fmt.Errorf("%q is not a duration in %s", match[0], query)
			}
		}
	}
	open, wants := 0, true // wants: an operand comes next
	for rest := strings.Join(strings.Fields(query), " "); rest != ""; {
		found := rest[:1]
		switch {
		case found == " ":
		case found == ",":
			wants = true
		case found == "(":
			open, wants = open+1, true
		case found == ")" && open > 0:
			open, wants = open-1, false
		case operand.MatchString(rest):
			found, wants = operand.FindString(rest), false
		case operator.MatchString(rest) && (!wants || found == "-"):
			found, wants = operator.FindString(rest), true
		default:
			return fmt.Errorf("%q was not expected in %s", rest, query)
		}
		rest = rest[len(found):]
	}
	if open != 0 || wants {
		return errors.New("something is missing at the end of " + query)
	}
	return nil
}

func TestSlipsOfThePenAreFound(t *testing.T) {
	t.Parallel()
	for _, query := range []string{"max(bobbin_pending) > > 5", "rate(bobbin_pending[5])", "rate(bobbin_pending[5mm])", "max(bobbin_pending", "bobbin_pending)", "bobbin_pending >"} {
		require.Error(t, checkQuery(query), query)
	}
}

// Every selector of the dashboard heeds its variables. Metrics of ours have the queue; those of every Go program are joined with
// one that has.
func dashboard(t *testing.T) (queries []string) {
	t.Helper()
	data, err := os.ReadFile(dashboardFile)
	require.NoError(t, err)
	var board struct {
		Templating struct {
			List []struct{ Name string }
		}
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	require.NoError(t, json.Unmarshal(data, &board))
	variables := ""
	for _, variable := range board.Templating.List {
		variables += variable.Name + " "
	}
	require.Equal(t, "datasource job prefix queue ", variables)
	for _, panel := range board.Panels {
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			for _, match := range selector.FindAllStringSubmatch(target.Expr, -1) {
				require.Contains(t, match[2], `job=~"$job"`, target.Expr)
				if strings.HasPrefix(match[1], "bobbin_") {
					require.Contains(t, match[2], `prefix="$prefix",queue=~"$queue"`, target.Expr)
				}
			}
			require.Contains(t, target.LegendFormat, "{{queue}}")
			queries = append(queries, target.Expr)
		}
	}
	return queries
}

func alerts(t *testing.T) (queries []string) {
	t.Helper()
	data, err := os.ReadFile(alertsFile)
	require.NoError(t, err)
	runbook, err := os.ReadFile("../docs/runbook.md")
	require.NoError(t, err)
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr, For string
				Annotations      map[string]string
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(data, &rules))
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			queries = append(queries, rule.Expr)
			require.Contains(t, rule.Expr, "prefix, queue", "%s mixes queues", rule.Alert)
			if rule.For != "" {
				require.Regexp(t, duration, rule.For, rule.Alert)
			}
			require.Equal(t, "docs/runbook.md#"+strings.ToLower(rule.Alert), rule.Annotations["runbook"])
			require.Contains(t, string(runbook), "\n### "+rule.Alert+"\n")
		}
	}
	return queries
}

// What Prometheus itself says of the rules and of the dashboard's queries, and whether each alert fires when it must.
func TestPrometheusTakesTheRules(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool, which comes with Prometheus")
	}
	rules := "groups: [{name: dashboard, rules: ["
	for i, query := range dashboard(t) {
		rules += fmt.Sprintf("{record: \"panel:%d\", expr: %q},", i, query)
	}
	panels := filepath.Join(t.TempDir(), "dashboard.yml")
	require.NoError(t, os.WriteFile(panels, []byte(rules+"]}]"), 0o600))
	for _, args := range [][]string{
		{"check", "rules", alertsFile}, {"check", "rules", panels}, {"test", "rules", "../deploy/prometheus-alerts_test.yml"},
	} {
		said, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput()
		require.NoError(t, err, "%s", said)
	}
}
