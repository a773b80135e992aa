/* What every page's scripts share: words, requests, toasts with undo, dialogs.
   ES5 and XMLHttpRequest only, since TVs of 2016 run Chromium 38 (docs/web.md); no build step. */
(function () {
  'use strict';

  var words = JSON.parse(document.getElementById('words').textContent);
  var topicNames = JSON.parse(document.getElementById('topic-names').textContent);
  var changeListeners = [];
  var MOST_THUMBNAILS = 6;
  var TOAST_SECONDS = 20;

  function number(value) {
    return String(value).replace(/\B(?=(\d{3})+$)/g, ',');
  }

  /* The words for a key; {placeholders} filled in, a count `n` picks between key.one and key.other. */
  function say(key, values) {
    values = values || {};
    if (!(key in words)) { key = key + (values.n === 1 ? '.one' : '.other'); }
    return words[key].replace(/\{(\w+)\}/g, function (_, name) {
      var value = values[name];
      return typeof value === 'number' ? number(value) : value;
    });
  }

  function request(method, url, body, done) {
    var xhr = new XMLHttpRequest();
    xhr.open(method, url);
    if (body !== null) { xhr.setRequestHeader('Content-Type', 'application/json'); }
    xhr.onload = function () { done(xhr.status, xhr.responseText); };
    xhr.onerror = function () { done(0, ''); };
    xhr.send(body === null ? null : JSON.stringify(body));
  }

  /* Call the API; `done(answer)` on success. What went wrong is told in a toast (or to `failed`, if given). */
  function call(method, url, body, done, failed) {
    request(method, url, body, function (status, text) {
      if (status >= 200 && status < 300) { done(JSON.parse(text)); return; }
      (failed || complain)(explain(status, text));
    });
  }

  /* What went wrong, in the page's language; the API's own explanation is English, and so follows in English only. */
  function explain(status, text) {
    if (status === 0) { return say('offline'); }
    var told = ('status_' + status) in words ? say('status_' + status) : say('failed');
    if (document.documentElement.lang !== 'en') { return told; }
    try { return told + ' (' + JSON.parse(text).detail + ')'; } catch (ignored) { return told; }
  }

  /* Fetch a part of a page as HTML. It comes from our own templates, which escape everything. */
  function part(url, name, done) {
    request('GET', url + (url.indexOf('?') < 0 ? '?' : '&') + 'part=' + name, null, function (status, text) {
      if (status === 200) { done(text); } else { complain(say(status === 0 ? 'offline' : 'failed')); }
    });
  }

  /* Fetch this page again and put its main part in place of the old one. */
  function refreshMain(done) {
    request('GET', location.href, null, function (status, text) {
      if (status !== 200) { return; }
      var fresh = new DOMParser().parseFromString(text, 'text/html').getElementById('main');
      var main = document.getElementById('main');
      main.innerHTML = fresh.innerHTML;
      window.Homespun.images(main);
      if (done) { done(); }
    });
  }

  function element(tag, className, text) {
    var made = document.createElement(tag);
    if (className) { made.className = className; }
    if (text !== undefined) { made.textContent = text; }
    return made;
  }

  function closest(node, selector) {
    var matches = Element.prototype.matches || Element.prototype.webkitMatchesSelector;
    while (node && node.nodeType === 1) {
      if (matches.call(node, selector)) { return node; }
      node = node.parentNode;
    }
    return null;
  }

  /* Toasts */

  var toast = document.getElementById('toast');
  var toastTimer = null;
  var toastUndo = null;

  function hideToast() {
    var held = toast.contains(document.activeElement);
    toast.hidden = true;
    toastUndo = null;
    clearTimeout(toastTimer);
    if (held) { window.Homespun.focusMain(); }
  }

  function showToast(nodes, undo, more) {
    toast.innerHTML = '';
    nodes.forEach(function (node) { toast.appendChild(node); });
    var buttons = element('p', 'buttons');
    if (undo) {
      var undoButton = element('button', 'button first', say('undo'));
      undoButton.type = 'button';
      undoButton.setAttribute('data-action', 'toast-undo');
      undoButton.addEventListener('click', undo);
      buttons.appendChild(undoButton);
    }
    if (more) { buttons.appendChild(more); }
    var close = element('button', 'button', say('close'));
    close.type = 'button';
    close.addEventListener('click', hideToast);
    buttons.appendChild(close);
    toast.appendChild(buttons);
    toastUndo = undo || null;
    toast.hidden = false;
    waitToHide();
  }

  function waitToHide() {
    clearTimeout(toastTimer);
    toastTimer = setTimeout(function () {
      // Whoever has reached for it keeps it.
      if (toast.contains(document.activeElement)) { waitToHide(); } else { hideToast(); }
    }, TOAST_SECONDS * 1000);
  }

  function complain(detail) {
    var text = element('p', 'toast-title complaint', detail);
    showToast([text], null);
  }

  function thumbnail(photoId) {
    var image = element('img');
    image.src = '/api/v1/photos/' + photoId + '/thumbnail';
    image.alt = '';
    return image;
  }

  /* A link to a photo that moved; `because` is the example that speaks for it (a Reason of the API), if there is one. */
  function movedPhoto(photoId, kind, text, because) {
    var link = element('a', 'moved-photo ' + kind);
    var picture = element('span', 'moved-picture');
    link.href = '/photos/' + photoId;
    picture.appendChild(thumbnail(photoId));
    link.appendChild(picture);
    if (text) { link.appendChild(element('span', '', text)); }
    if (because) {
      var itself = because.photo_id === photoId;
      var why = itself ? 'itself' : because.taken_back ? 'back' : because.said ? 'yes' : 'no';
      link.setAttribute('aria-label', (text ? text + ', ' : '') + say('why_' + why, { topic: topicNames[because.topic] || because.topic }));
      if (!itself) {
        var example = thumbnail(because.photo_id);
        example.className = 'example';
        picture.appendChild(example);
      }
    }
    return link;
  }

  function movedPhotos(change) {
    return change.moved.map(function (move) {
      var name = topicNames[move.topic] || move.topic;
      var kind = move.after ? 'came' : 'went';
      return movedPhoto(move.photo_id, kind, say(kind, { topic: name }), move.because);
    });
  }

  /* A toast of what was said, what came of it (a sentence and links with pictures), and a way back. */
  function showResult(changeId, title, sentence, links, button) {
    var nodes = [element('p', 'toast-title', title)];
    if (sentence) { nodes.push(element('p', 'toast-moved', sentence)); }
    if (links.length) {
      var moved = element('div', 'moved');
      links.slice(0, MOST_THUMBNAILS).forEach(function (link) { moved.appendChild(link); });
      nodes.push(moved);
      if (moved.querySelector('.example')) { nodes.push(element('p', 'toast-moved small', say('because'))); }
    }
    showToast(nodes, changeId === null ? null : function () { undo(changeId); }, button);
  }

  function showChange(change, title) {
    showResult(change.id, title, change.moved_total ? say('moved', { n: change.moved_total }) : say('nothing_moved'), movedPhotos(change));
    tellListeners(change);
  }

  function undo(changeId, done) {
    call('POST', '/api/v1/changes/' + changeId + '/undo', {}, function (change) {
      var sentence = change.moved_total ? say('moved_back', { n: change.moved_total }) : '';
      showResult(null, say('undone'), sentence, movedPhotos(change));
      tellListeners(change);
      if (done) { done(change); }
    });
  }

  function tellListeners(change) {
    changeListeners.forEach(function (listener) { listener(change); });
  }

  /* Dialogs: one at a time; the remote stays inside it. */

  var dialog = null;
  var focusBefore = null;

  function openDialog(id) {
    if (dialog) { dialog.hidden = true; } else { focusBefore = document.activeElement; }
    dialog = document.getElementById(id);
    dialog.hidden = false;
    document.body.classList.add('with-dialog');
    var first = dialog.querySelector('[data-autofocus]') || dialog.querySelector('input, button');
    if (first) { first.focus(); }
    return dialog;
  }

  function closeDialog() {
    if (!dialog) { return false; }
    dialog.hidden = true;
    dialog = null;
    document.body.classList.remove('with-dialog');
    if (focusBefore && document.body.contains(focusBefore)) { focusBefore.focus(); }
    return true;
  }

  document.addEventListener('click', function (event) {
    if (event.target === dialog || closest(event.target, '.dialog [data-action="close"]')) { closeDialog(); }
  });

  window.Homespun = {
    say: say,
    call: call,
    part: part,
    refreshMain: refreshMain,
    element: element,
    closest: closest,
    topicNames: topicNames,
    showChange: showChange,
    showResult: showResult,
    movedPhoto: movedPhoto,
    movedPhotos: movedPhotos,
    tellListeners: tellListeners,
    showToast: showToast,
    hideToast: hideToast,
    complain: complain,
    undo: undo,
    undoShown: function () { if (!toast.hidden && toastUndo) { toastUndo(); return true; } return false; },
    onChange: function (listener) { changeListeners.push(listener); },
    openDialog: openDialog,
    closeDialog: closeDialog,
    currentDialog: function () { return dialog; },
    images: function () {},
    focusMain: function () {}
  };
}());
