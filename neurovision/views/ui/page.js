// Links to tabs (#batch), arrow keys between tabs, messages that do not follow to another tab, and names for screen readers.
() => {
  // Gradio 6.31: File's "add files" is a button inside a button whose name is an untranslated key, and the box of an empty
  // component has a name without a role. The inner button stays the one that is reached and named.
  const mend = () => {
    document.querySelectorAll('button:has(> div button.upload-container)').forEach((outer) => {
      if (outer.getAttribute('role') === 'group') return;
      outer.setAttribute('role', 'group');
      outer.tabIndex = -1;
      outer.setAttribute('aria-label', 'More files');
      outer.title = 'More files';
    });
    document.querySelectorAll('div.empty[aria-label]:not([role])').forEach((box) => box.setAttribute('role', 'img'));
  };
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
  mend();
  const tabs = (list) => [...list.querySelectorAll('[role=tab]')].filter((t) => t.offsetParent);
  const slug = (tab) => tab.textContent.trim().toLowerCase().replace(/ /g, '-');
  const open = () => {
    const wanted = decodeURIComponent(location.hash.slice(1));
    const found = [...document.querySelectorAll('[role=tab]')].find((t) => slug(t) === wanted);
    if (found && found.getAttribute('aria-selected') !== 'true') found.click();
  };
  document.addEventListener('click', (e) => {
    const tab = e.target.closest('[role=tab]');
    if (!tab) return;
    document.querySelectorAll('.toast-close').forEach((b) => b.click());
    if (tab.closest('#tabs') && tab.closest('.tabs').id === 'tabs') history.replaceState(null, '', '#' + slug(tab));
  });
  document.addEventListener('keydown', (e) => {
    const tab = e.target.closest?.('[role=tab]');
    const by = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (!tab || (!by && e.key !== 'Home' && e.key !== 'End')) return;
    const all = tabs(tab.closest('[role=tablist]')), at = all.indexOf(tab);
    const next = e.key === 'Home' ? all[0] : e.key === 'End' ? all.at(-1) : all[(at + by + all.length) % all.length];
    e.preventDefault();
    next.focus();
    next.click();
  });
  window.addEventListener('hashchange', open);
  setTimeout(open, 100);
}
