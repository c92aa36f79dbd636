package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) modulesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "modules", Short: "Publish and look at workflow modules", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError("modules: expected one of push DIR, list, show PATH, delete PATH")
		},
	}
	cmd.AddCommand(a.modulesPush(), a.modulesList(), a.modulesShow(), a.modulesDelete())
	return cmd
}

func (a *app) modulesPush() *cobra.Command {
	prune := false
	cmd := &cobra.Command{
		Use: "push DIR", Short: "Publish every module under DIR in one step", Args: exactly("DIR"),
		Long: "Publish every workflow module under DIR in one step, under its path relative to DIR. Executions that start after\n" +
			"it see all of them, on every worker. Modules that are not under DIR stay as they are.\n\n" +
			"Modules are files that end in " + strings.Join(moduleSuffixes, ", ") + ", in UTF-8; a byte order mark is dropped, and a .py file that\n" +
			"declares latin-1 is converted. Passed over: hidden folders, virtual environments (folders with a pyvenv.cfg), and\n" +
			"folders called " + strings.Join(foreign, ", ") + ".\n\n" +
			"With --prune the same step removes modules whose files are gone: what is published under a folder that DIR has at\n" +
			"its top, or in no folder where DIR has such modules, and is not in DIR. What is published elsewhere stays.",
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := readFolder(os.DirFS(args[0]))
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if len(f.passed) > 0 {
				fmt.Fprintf(a.stderr, "passed over %s\n", strings.Join(f.passed, ", "))
			}
			if len(f.sources) == 0 {
				return usageError("%s holds no modules, expected files that end in %s", args[0], strings.Join(moduleSuffixes, ", "))
			}
			return a.pushFolder(cmd.Context(), f, prune)
		},
	}
	cmd.Flags().BoolVar(&prune, "prune", false, "remove published modules of DIR's folders whose files are gone")
	return cmd
}

func (a *app) pushFolder(ctx context.Context, f *folder, prune bool) error {
	_, q, err := connect()
	if err != nil {
		return err
	}
	defer func() { _ = q.Close() }()
	var gone []string
	if prune {
		_, published, err := q.Modules(ctx)
		if err != nil {
			return err
		}
		gone = f.gone(published)
	}
	current, err := q.PushModules(ctx, f.sources, gone...)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(f.sources)) {
		fmt.Fprintln(a.stdout, name)
	}
	for _, name := range gone {
		fmt.Fprintf(a.stderr, "removed %s\n", name)
	}
	fmt.Fprintf(a.stderr, "published %d modules as version %s\n", len(f.sources), current)
	return nil
}

func (a *app) modulesList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the published modules", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			current, sources, err := q.Modules(cmd.Context())
			if err != nil {
				return err
			}
			for _, name := range slices.Sorted(maps.Keys(sources)) {
				fmt.Fprintf(a.stdout, "%s\t%d bytes\n", name, len(sources[name]))
			}
			fmt.Fprintf(a.stderr, "%d modules, version %s\n", len(sources), current)
			return nil
		},
	}
}

func (a *app) modulesShow() *cobra.Command {
	return &cobra.Command{
		Use: "show PATH", Short: "Print the source of a module", Args: exactly("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			_, sources, err := q.Modules(cmd.Context())
			if err != nil {
				return err
			}
			source, ok := sources[args[0]]
			if !ok {
				return fmt.Errorf("no module %q is published; bobbin modules list shows which are", args[0])
			}
			_, err = fmt.Fprint(a.stdout, source)
			return err
		},
	}
}

func (a *app) modulesDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete PATH", Short: "Remove a module", Args: exactly("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, q, err := connect()
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }()
			deleted, err := q.DeleteModules(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if deleted == 0 {
				return fmt.Errorf("no module %q is published; bobbin modules list shows which are", args[0])
			}
			fmt.Fprintf(a.stderr, "deleted %s\n", args[0])
			return nil
		},
	}
}
