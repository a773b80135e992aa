/* The page of topics: rename, hide, show and remove. */
(function () {
  'use strict';

  var Homespun = window.Homespun;
  var main = document.getElementById('main');
  var form = document.querySelector('#rename form');
  var card = null;

  function address() { return '/api/v1/topics/' + encodeURIComponent(card.getAttribute('data-topic')); }

  function settled(title) {
    return function () {
      var topic = card.getAttribute('data-topic');
      Homespun.closeDialog();
      Homespun.refreshMain(function () {
        var cards = [].slice.call(main.querySelectorAll('.card'));
        var same = cards.filter(function (one) { return one.getAttribute('data-topic') === topic; })[0];
        var link = (same || main).querySelector('a');
        if (link) { link.focus({ preventScroll: true }); }
      });
      // What was done stands in the log: its newest line can be taken back.
      Homespun.call('GET', '/api/v1/changes?limit=1', null, function (changes) {
        var change = changes[0];
        if (!change || change.topics.indexOf(topic) < 0) { Homespun.showResult(null, title, '', []); return; }
        var sentence = change.moved_total ? Homespun.say('moved', { n: change.moved_total }) : '';
        Homespun.showResult(change.id, title, sentence, Homespun.movedPhotos(change));
      });
    };
  }

  main.addEventListener('click', function (event) {
    var button = Homespun.closest(event.target, '[data-action]');
    if (!button) { return; }
    card = Homespun.closest(button, '.card');
    var name = card.getAttribute('data-name');
    var action = button.getAttribute('data-action');
    if (action === 'hide' || action === 'show') {
      Homespun.call('PATCH', address(), { hidden: action === 'hide' }, settled(Homespun.say('topic_' + action, { topic: name })));
    }
    if (action === 'rename') {
      form.elements.name_en.value = card.getAttribute('data-name-en');
      form.elements.name_zh.value = card.getAttribute('data-name-zh');
      form.querySelector('.complaint').hidden = true;
      Homespun.openDialog('rename');
    }
    if (action === 'remove') { Homespun.openDialog('remove'); }
  });

  form.addEventListener('submit', function (event) {
    event.preventDefault();
    var en = form.elements.name_en.value.trim(), zh = form.elements.name_zh.value.trim();
    var body = {};
    var complaint = form.querySelector('.complaint');
    function complain(detail) { complaint.textContent = detail; complaint.hidden = false; }
    if (!en && !zh) { complain(Homespun.say('name_missing')); return; }
    if (en) { body.name = en; }
    if (zh) { body.name_zh = zh; }
    Homespun.call('PATCH', address(), body, settled(Homespun.say('topic_renamed')), complain);
  });

  document.querySelector('#remove [data-action="confirm-remove"]').addEventListener('click', function () {
    Homespun.call('DELETE', address(), null, settled(Homespun.say('topic_removed', { topic: card.getAttribute('data-name') })), Homespun.complain);
  });

  Homespun.onChange(function () { Homespun.refreshMain(); });
}());
