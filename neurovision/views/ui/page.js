// Links to tabs (#batch), arrow keys between tabs, and messages that do not follow to another tab.
() => {
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
