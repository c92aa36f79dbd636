package main

import (
	"log/slog"
	"os"
	"os/exec"

	"github.com/bobbin-run/bobbin/config"
	"github.com/bobbin-run/bobbin/consumer"
	"github.com/bobbin-run/bobbin/runner"
	"github.com/bobbin-run/bobbin/runner/process"
	"github.com/bobbin-run/bobbin/runner/script"
)

// interpreters finds the languages that this machine has. One that was asked for by name and is not there stops the start;
// one that nobody asked for is left out, and its workflows are rejected.
func interpreters(python, node string) ([]*process.Language, error) {
	var found []*process.Language
	for _, l := range []struct {
		variable, program string
		language          func(path string) *process.Language
	}{
		{"BOBBIN_PYTHON", python, process.Python},
		{"BOBBIN_NODE", node, process.Node},
	} {
		path, err := exec.LookPath(l.program)
		if _, asked := os.LookupEnv(l.variable); err != nil && asked {
			return nil, usageError("%s=%q: %v", l.variable, l.program, err)
		}
		if err == nil {
			found = append(found, l.language(path))
		}
	}
	return found, nil
}

// processOptions are the settings of the interpreters.
func processOptions(cfg *config.Config, log *slog.Logger) process.Options {
	return process.Options{
		Mode: process.Mode(cfg.PythonMode), Warm: min(cfg.PythonWarm, cfg.Concurrency), Preload: cfg.PythonPreload,
		Limit: cfg.Concurrency, MaxExecutions: cfg.PythonMaxExecutions, MaxRSS: int64(cfg.PythonMaxRSS),
		CancelGrace: cfg.CancelGrace, ResultMaxBytes: int(cfg.ResultMaxBytes), Log: log,
	}
}

// scriptRunners returns what runs published modules, by the suffix of their names, and the languages' names. What warms up
// an interpreter is Python's alone: its preload names mean nothing elsewhere.
func scriptRunners(languages []*process.Language, o process.Options) (map[string]func(consumer.Modules) runner.Runner, []string) {
	names := []string{"starlark"}
	runners := map[string]func(consumer.Modules) runner.Runner{
		script.Suffix: func(m consumer.Modules) runner.Runner {
			return script.New(m, script.Options{ResultMaxBytes: o.ResultMaxBytes})
		},
	}
	for _, language := range languages {
		own := o
		if language.Name != "python" {
			own.Mode, own.Warm, own.Preload = process.Resident, 0, ""
		}
		names = append(names, language.Name)
		runners[language.Suffix] = func(m consumer.Modules) runner.Runner { return process.New(language, m, own) }
	}
	return runners, names
}
